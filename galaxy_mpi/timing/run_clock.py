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

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from galaxy_mpi.mesh import Mesh
from galaxy_mpi.program.op import Program
from galaxy_mpi.timing.chip_clock import ChipClock
from galaxy_mpi.timing.costs import Costs
from galaxy_mpi.timing.replay import Events, Traced
from galaxy_mpi.timing.slowness import Slowness
from galaxy_mpi.timing.tape import Tape
from galaxy_mpi.timing.times import DeviceTimes, Timing

__all__ = ["ChipTimes", "ProgramClocks", "RunClock", "join", "stragglers"]


@dataclass
class ChipTimes:
    """What one chip's clock has said of every pass and step, in order."""

    rank: int
    seconds: list[float] = field(default_factory=list)
    stall_s: list[float] = field(default_factory=list)
    timings: list[Timing] = field(default_factory=list)
    """All figures; of chip (0, 0) only."""
    first_tokens: list[tuple[int, ...] | None] = field(default_factory=list)
    """The requests that a pass gave first tokens; None for a step."""
    step_tokens: list[int] = field(default_factory=list)
    """Tokens that a step gave; 0 for a pass."""
    waits_s: dict[int, float] = field(default_factory=dict)
    """Seconds of all steps that it waited for each chip, by rank."""

    def add(self, clock: ChipClock, requests: tuple[int, ...] | None, n_tokens: int) -> None:
        """Note a pass or a step that has ended; a timing equal to the one before is kept once."""
        clock.finish()
        self.seconds.append(clock.now)
        self.stall_s.append(clock.stall_s)
        self.first_tokens.append(requests)
        self.step_tokens.append(n_tokens)
        if requests is None:
            for rank, waited_s in clock.waits_s.items():
                self.waits_s[rank] = self.waits_s.get(rank, 0.0) + waited_s
        if self.rank == 0:
            timing = clock.timing()
            if self.timings and self.timings[-1] == timing:
                timing = self.timings[-1]
            self.timings.append(timing)


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

    def end_step(self, clocks: ProgramClocks, n_tokens: int) -> None:
        """Note the step, which gave so many tokens."""
        self._end(clocks, None, n_tokens)

    def _end(self, clocks: ProgramClocks, requests: tuple[int, ...] | None, n_tokens: int) -> None:
        for clock, times in zip(clocks.chips, self.times, strict=True):
            times.add(clock, requests, n_tokens)


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
    for number, own in enumerate(first.timings):
        timing = replace(
            own,
            seconds=max(chip.seconds[number] for chip in chips),
            stall_s=max(chip.stall_s[number] for chip in chips),
        )
        requests = first.first_tokens[number]
        if requests is None:
            times.add_step(timing, first.step_tokens[number])
        else:
            times.add_prefill(timing, requests)
    return times
