"""Device time in a run: each rank keeps its own chip's clock, time stamps travel with the data."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from galaxy_mpi.device import ChipClock, Slowness, Tape
from galaxy_mpi.engine.device_program import DeviceProgram
from galaxy_mpi.engine.device_times import DeviceTimes, Timing
from galaxy_mpi.engine.tracing import RunEvents
from galaxy_mpi.systems import PrefillPass

__all__ = ["ChipTimes", "NoClock", "RunClock", "join"]


@dataclass
class ChipTimes:
    """What one chip's clock has said of every pass and step, in order."""

    timings: list[Timing] = field(default_factory=list)
    first_tokens: list[tuple[int, ...] | None] = field(default_factory=list)
    """The requests that a pass gave first tokens; None for a step."""
    step_tokens: list[int] = field(default_factory=list)
    """Tokens that a step gave; 0 for a pass."""

    def add(self, timing: Timing, requests: tuple[int, ...] | None, n_tokens: int) -> None:
        """Note one; a timing equal to the one before is kept once."""
        if self.timings and self.timings[-1] == timing:
            timing = self.timings[-1]
        self.timings.append(timing)
        self.first_tokens.append(requests)
        self.step_tokens.append(n_tokens)


class RunClock:
    """The device clock of one rank.

    Parameters
    ----------
    program : DeviceProgram
    rank : int
    slowness : Slowness, optional
    """

    def __init__(self, program: DeviceProgram, rank: int, slowness: Slowness | None = None) -> None:
        self._program = program
        self._column = program.mesh.coord(rank)[1]
        self.clock = ChipClock(program.machine, program.mesh, rank, slowness=slowness)
        self._tapes: dict[tuple[Any, ...], Tape] = {}
        self.times = ChipTimes()
        self.events = RunEvents()

    def begin_prefill(self, work: PrefillPass) -> None:
        """Start the clock for a pass."""
        self.events.add(work)
        what = self._program.of_prefill(work)
        if what not in self._tapes:
            self._tapes[what] = tape = self._tape()
            self._program.prefill(tape, work)
        self.clock.start(self._tapes[what])

    def begin_step(self, positions: Sequence[int]) -> None:
        """Start the clock for a decode step; ``positions`` as in `Estimator.step`."""
        self.events.add(list(positions))
        what = self._program.of_decode(positions)
        if what not in self._tapes:
            self._tapes[what] = tape = self._tape()
            self._program.decode(tape, positions)
        self.clock.start(self._tapes[what])

    def end_prefill(self, requests: Sequence[int]) -> None:
        """Note the pass, which gave ``requests`` their first tokens."""
        self.clock.finish()
        self.times.add(Timing.of(self.clock), tuple(requests), 0)

    def end_step(self, n_tokens: int) -> None:
        """Note the step, which gave so many tokens."""
        self.clock.finish()
        self.times.add(Timing.of(self.clock), None, n_tokens)

    def _tape(self) -> Tape:
        if len(self._tapes) >= _MOST_TAPES:  # a run as long as the model can, in tiles of 32
            self._tapes.clear()
        return Tape(self._column, self._program.machine.op_gap_s)


_MOST_TAPES = 64


class NoClock:
    """Stands for a `RunClock` where the device has no such numbers."""

    clock = None
    times = None
    events = RunEvents()

    def begin_prefill(self, work: PrefillPass) -> None:
        """Do nothing."""

    def begin_step(self, positions: Sequence[int]) -> None:
        """Do nothing."""

    def end_prefill(self, requests: Sequence[int]) -> None:
        """Do nothing."""

    def end_step(self, n_tokens: int) -> None:
        """Do nothing."""


def join(chips: Sequence[ChipTimes], times: DeviceTimes) -> DeviceTimes:
    """Add all passes and steps to ``times``: each ends when its last chip does.

    Parameters
    ----------
    chips : sequence of ChipTimes
        By rank; ops are told of the first.
    times : DeviceTimes
    """
    first = chips[0]
    for number, own in enumerate(first.timings):
        of_all = [chip.timings[number] for chip in chips]
        timing = Timing(
            max(t.seconds for t in of_all),
            own.by_op_s,
            max(t.stall_s for t in of_all),
            own.core_s,
            own.link_bytes,
        )
        requests = first.first_tokens[number]
        if requests is None:
            times.add_step(timing, first.step_tokens[number])
        else:
            times.add_prefill(timing, requests)
    return times
