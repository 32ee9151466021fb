"""Device time in a run: a clock for each chip of the process, for each program that is bound.

An engine makes `ProgramClocks` with every program that it binds, gives each chip's binder its clock
(``Binder(..., clock=clock, is_charged=clock.is_charged)``), and says before and after each run what
the run is about::

    clocks = device.of(program)                 # when it is bound
    device.start(clocks, positions=positions)   # before a decode step; positions by column
    device.end_step(clocks, n_tokens)           # after it
    device.start(clocks, work=work.shape)       # before a pass
    device.end_prefill(clocks, requests)        # after it
    join(chips, times)                          # at the end, on rank 0: `times` of all chips
"""

from array import array
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from galaxy_mpi.mesh import Mesh
from galaxy_mpi.program.op import Program
from galaxy_mpi.timing.chip_clock import ChipClock
from galaxy_mpi.timing.costs import Costs
from galaxy_mpi.timing.replay import Events, Traced
from galaxy_mpi.timing.slowness import Slowness
from galaxy_mpi.timing.tape import Tape
from galaxy_mpi.timing.times import DeviceTimes, ModeSums

__all__ = ["ChipTimes", "ProgramClocks", "RunClock", "join", "stragglers"]


def _seconds() -> "array[float]":
    return array("d")


@dataclass
class ChipTimes:
    """What one chip's clock has said of every pass and step, in order.

    A few bytes each, because a run may have millions: what they were spent on is kept as sums.
    """

    rank: int
    seconds: "array[float]" = field(default_factory=_seconds)
    stall_s: "array[float]" = field(default_factory=_seconds)
    steps: ModeSums = field(default_factory=ModeSums)
    """Of chip (0, 0) only, as ``passes``."""
    passes: ModeSums = field(default_factory=ModeSums)
    first_tokens: dict[int, tuple[int, ...]] = field(default_factory=dict)
    """The requests that a pass gave first tokens, by the number of the pass."""
    step_tokens: "array[int]" = field(default_factory=lambda: array("q"))
    """Tokens that a step gave; 0 for a pass."""
    last_tokens: dict[int, int] = field(default_factory=dict)
    """The number of the pass or step that gave each request its last token; of chip (0, 0) only."""
    waits_s: dict[int, float] = field(default_factory=dict)
    """Seconds of all steps that it waited for each chip, by rank."""

    def add(
        self,
        clock: ChipClock,
        requests: tuple[int, ...] | None,
        n_tokens: int,
        stepped: Sequence[int] = (),
    ) -> None:
        """Note a pass that gave requests their first tokens, or a step, which has ended.

        Parameters
        ----------
        clock : ChipClock
        requests : tuple of int or None
            None: it is a step.
        n_tokens : int
        stepped : sequence of int
            The requests that a step gave tokens to, if they are known.
        """
        clock.finish()
        if self.rank == 0:
            self.last_tokens |= dict.fromkeys(requests or stepped, len(self.seconds))
        if requests is None:
            for rank, waited_s in clock.waits_s.items():
                self.waits_s[rank] = self.waits_s.get(rank, 0.0) + waited_s
        else:
            self.first_tokens[len(self.seconds)] = requests
        self.seconds.append(clock.now)
        self.stall_s.append(clock.stall_s)
        self.step_tokens.append(n_tokens)
        if self.rank == 0:
            (self.steps if requests is None else self.passes).add(clock.timing())


@dataclass(frozen=True)
class ProgramClocks:
    """The clocks of the chips of a process in one program, in the order of their ranks."""

    chips: list[ChipClock]


class RunClock:
    """Device time of the chips of a process.

    Parameters
    ----------
    costs : Costs
        Of the machine as the system uses it (`Programs.on`).
    mesh : Mesh
    ranks : sequence of int
        Of the chips of this process.
    slowness : Slowness, optional
    traced : Traced, optional
        Which passes and steps `events` are.

    Attributes
    ----------
    times : list of ChipTimes
        One a chip.
    events : Events
        What the passes and steps that are traced were about.
    """

    def __init__(
        self,
        costs: Costs,
        mesh: Mesh,
        ranks: Sequence[int],
        slowness: Slowness | None = None,
        traced: Traced | None = None,
    ) -> None:
        self._costs, self._mesh, self._ranks = costs, mesh, list(ranks)
        self._slowness = slowness
        self.times = [ChipTimes(rank) for rank in self._ranks]
        self.events = Events(traced or Traced())

    def of(self, program: Program) -> ProgramClocks:
        """Return new clocks for a program that is about to be bound."""
        tape = Tape(program, self._costs)
        return ProgramClocks(
            [ChipClock(tape, self._mesh, rank, self._slowness) for rank in self._ranks]
        )

    def start(
        self, clocks: ProgramClocks, *, positions: Sequence[int] = (), work: Any = None
    ) -> None:
        """Begin a decode step or a pass at time 0.

        Parameters
        ----------
        clocks : ProgramClocks
        positions : sequence of int
            Of a decode step, see `ChipClock.start`.
        work : galaxy_mpi.systems.PassShape, optional
            Of a pass.
        """
        self.events.add(list(positions) if work is None else work)
        for clock in clocks.chips:
            clock.start(positions)

    def end_prefill(self, clocks: ProgramClocks, requests: Sequence[int]) -> None:
        """Note the pass, which gave ``requests`` their first tokens."""
        self._end(clocks, tuple(requests), 0)

    def end_step(self, clocks: ProgramClocks, n_tokens: int, requests: Sequence[int] = ()) -> None:
        """Note the step, which gave so many tokens, one to each of ``requests`` if told."""
        self._end(clocks, None, n_tokens, requests)

    def _end(
        self,
        clocks: ProgramClocks,
        requests: tuple[int, ...] | None,
        n_tokens: int,
        stepped: Sequence[int] = (),
    ) -> None:
        for clock, times in zip(clocks.chips, self.times, strict=True):
            times.add(clock, requests, n_tokens, stepped)


def stragglers(chips: Sequence[ChipTimes], mesh: Mesh, n_steps: int) -> list[dict[str, Any]]:
    """Return the chips that others wait for in decode steps, the worst first.

    A chip that waits itself passes on what it waits for, so its own waiting is taken off; half of
    the worst is the least that is told.

    Returns
    -------
    list of dict
        ``chip`` (row, column), ``waited_s``: what the chip that waits longest for it waits in a
        step, less its own waiting.
    """
    own = {chip.rank: sum(chip.waits_s.values()) for chip in chips}
    longest: dict[int, float] = {}
    for chip in chips:
        for rank, waited_s in chip.waits_s.items():
            longest[rank] = max(longest.get(rank, 0.0), waited_s)
    net = {rank: waited_s - own[rank] for rank, waited_s in longest.items()}
    worst = max(net.values(), default=0.0)
    found = sorted((r for r, s in net.items() if s > 0 and s >= worst / 2), key=lambda r: -net[r])
    return [{"chip": list(mesh.coord(r)), "waited_s": net[r] / max(n_steps, 1)} for r in found]


def join(chips: Sequence[ChipTimes], times: DeviceTimes) -> DeviceTimes:
    """Add all passes and steps to ``times``: each ends when its last chip does.

    Parameters
    ----------
    chips : sequence of ChipTimes
        Of all chips; ops are told of chip (0, 0).
    times : DeviceTimes
    """
    (first,) = (chip for chip in chips if chip.rank == 0)
    times.steps, times.passes = deepcopy(first.steps), deepcopy(first.passes)
    ends_s: list[float] = []
    for number, n_tokens in enumerate(first.step_tokens):
        seconds = max(chip.seconds[number] for chip in chips)
        requests = first.first_tokens.get(number)
        if requests is None:
            times.end_step(seconds, max(chip.stall_s[number] for chip in chips), n_tokens)
        else:
            times.end_prefill(seconds, requests)
        ends_s.append(times.now_s)
    times.last_token_s = {request: ends_s[at] for request, at in first.last_tokens.items()}
    return times
