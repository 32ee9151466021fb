"""Device time of a run: kept on one rank, because it is a function of programs and positions.

Values do not change device time, and every pass and step begins at the same time on all chips. So
nothing about it is exchanged between ranks, and a step whose attention takes as long as that of an
earlier one is not evaluated again::

    clock.prefill(work.shape, requests)      # after a pass
    clock.step(positions, requests)          # after a decode step; positions by column
    clock.times, clock.stragglers()          # at the end
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from galaxy_mpi.arrays import added
from galaxy_mpi.json_values import JsonObject
from galaxy_mpi.mesh import Mesh
from galaxy_mpi.timing.estimator import Estimator
from galaxy_mpi.timing.traced import Events, Traced

if TYPE_CHECKING:
    from galaxy_mpi.systems.prefill_pass import PassShape

__all__ = ["RunClock", "stragglers"]


class RunClock:
    """Device time of a run.

    Parameters
    ----------
    estimator : Estimator
        Of the run's programs and machine.
    traced : Traced, optional
        Which passes and steps `events` records.

    Attributes
    ----------
    times : DeviceTimes
    events : Events
        The traced passes and steps.
    """

    def __init__(self, estimator: Estimator, traced: Traced | None = None) -> None:
        self.estimator, self.times = estimator, estimator.times()
        self.events = Events(traced or Traced())
        self._waits_s: defaultdict[int, defaultdict[int, float]]
        self._waits_s = defaultdict(lambda: defaultdict(float))

    def prefill(self, shape: "PassShape", requests: Sequence[int]) -> None:
        """Note a pass that gave ``requests``, by their numbers, their first tokens."""
        self.events.add(shape)
        self.times.add_prefill(self.estimator.prefill(shape), requests)
        self.times.last_token_s |= dict.fromkeys(requests, self.times.now_s)

    def step(self, positions: Sequence[int], requests: Sequence[int]) -> None:
        """Note a decode step that gave each of ``requests`` a token.

        Parameters
        ----------
        positions : sequence of int
            Position of the longest user in each column; -1 for no user.
        requests : sequence of int
        """
        self.events.add(list(positions))
        timing = self.estimator.step(positions)
        self.times.add_step(timing, len(requests))
        self.times.last_token_s |= dict.fromkeys(requests, self.times.now_s)
        for rank, others in timing.waits_s.items():
            for other, waited_s in others.items():
                self._waits_s[rank][other] += waited_s

    def stragglers(self) -> list[JsonObject]:
        """Return the chips that others waited for in decode steps, see `stragglers`."""
        return stragglers(self._waits_s, self.estimator.programs.mesh, len(self.times.step_s))


def stragglers(
    waits_s: Mapping[int, Mapping[int, float]], mesh: Mesh, n_steps: int
) -> list[JsonObject]:
    """Return the chips that others wait for in decode steps, worst first.

    A chip that itself waits only passes the delay on, so its own waiting is subtracted. Chips below
    half of the worst are left out.

    Parameters
    ----------
    waits_s : mapping of int to mapping of int to float
        As `Timing.waits_s`, of all steps.
    mesh : Mesh
    n_steps : int

    Returns
    -------
    list of dict
        ``chip`` (row, column), and ``waited_s``: how long the chip that waits longest for it waits
        in a step, minus its own waiting.
    """
    own = {rank: added(others.values()) for rank, others in waits_s.items()}
    longest: dict[int, float] = {}
    for others in waits_s.values():
        for rank, waited_s in others.items():
            longest[rank] = max(longest.get(rank, 0.0), waited_s)
    net = {rank: waited_s - own.get(rank, 0.0) for rank, waited_s in longest.items()}
    worst = max(net.values(), default=0.0)
    found = sorted((r for r, s in net.items() if s > 0 and s >= worst / 2), key=lambda r: -net[r])
    return [{"chip": list(mesh.coord(r)), "waited_s": net[r] / max(n_steps, 1)} for r in found]
