"""The device clock of a mesh: chooses how its chips are evaluated.

`galaxy_mpi.timing.uniform_clock` evaluates one chip for all where nothing differs between them,
`galaxy_mpi.timing.chips_clock` all chips with only their times as a result, and
`galaxy_mpi.timing.watched_clock` shows a watcher everything on the way. Their times are equal.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np

from galaxy_mpi.mesh import Axis, Mesh
from galaxy_mpi.program.charge import Charge
from galaxy_mpi.timing.chips_clock import ChipsClock
from galaxy_mpi.timing.hops import Seconds, hop_delays
from galaxy_mpi.timing.slowness import Slowness
from galaxy_mpi.timing.spans import ProgramSpans, Watcher
from galaxy_mpi.timing.step_record import StepRecord
from galaxy_mpi.timing.tape import Tape, Told
from galaxy_mpi.timing.times import Timing
from galaxy_mpi.timing.trace import Trace
from galaxy_mpi.timing.uniform_clock import UniformClock
from galaxy_mpi.timing.watched_clock import WatchedClock

__all__ = ["MeshClock"]


class MeshClock:
    """Device time of every chip in a program.

    Parameters
    ----------
    tape : Tape
    mesh : Mesh
    slowness : Slowness, optional
    notes_waits : bool
        Whether `Timing.waits_s` is wanted, which takes as long as all the rest; it is also noted
        if something is slow.
    """

    def __init__(
        self,
        tape: Tape,
        mesh: Mesh,
        slowness: Slowness | None = None,
        *,
        notes_waits: bool = False,
    ) -> None:
        slowness = slowness or Slowness()
        self._notes_waits = notes_waits or slowness != Slowness()
        self._tape, self._mesh, self._slowness = tape, mesh, slowness
        delays = (hop_delays(tape.costs.machine, mesh.size(axis)) for axis in Axis)
        is_even = slowness == Slowness() and all(map(_is_alike, delays))
        self._one = UniformClock(tape, mesh) if is_even else None
        self._told, self._attended_s = Told(), list[float]()

    def run(self, positions: Sequence[int] = (), trace: Trace | None = None) -> Timing:
        """Return the time of the program, from a common start of all chips.

        Parameters
        ----------
        positions : sequence of int
            For a decode step: position of the longest user in each column; -1 for no user.
        trace : Trace, optional
            Receives every op, read and collective.
        """
        attended_s = self._tape.attended_s(positions)
        is_seen = trace is not None or self._notes_waits
        if self._one is not None and trace is None and _is_even(attended_s):
            told, seconds, stall_s = self._one.run(attended_s)
        elif not is_seen:
            played = self._chips.run(self._by_column(attended_s))
            told, seconds = played.told, played.seconds[0]
            stall_s = float(played.stall_s.max())
        else:
            spans = None if trace is None else ProgramSpans(trace, self._mesh, self._tape.uses)
            return self._watched(attended_s, spans)
        return self._timing(told, attended_s, seconds, stall_s)

    def record(self, positions: Sequence[int]) -> tuple[Timing, StepRecord]:
        """Return the time of a decode step, and what every chip does in it; see `run`."""
        record = StepRecord(self._tape.uses)
        return self._watched(self._tape.attended_s(positions), record), record

    def run_s(self, positions: Sequence[int] = ()) -> float:
        """Return only the seconds of `run`."""
        if self._one is not None and len(set(positions)) <= 1:
            return self._one.run_s(self._tape.attended_s(positions))
        return self.run(positions).seconds

    def spans_s(self) -> list[tuple[Charge, float]]:
        """Return each charge of the last `run` or `record` with its seconds on chip (0, 0)."""
        return self._tape.spans_s(self._told, self._attended_s, self._factor)

    @cached_property
    def _chips(self) -> ChipsClock:
        return ChipsClock(self._tape, self._mesh, self._slowness)

    @property
    def _factor(self) -> float:
        return self._slowness.chips.get((0, 0), 1.0)

    def _watched(self, attended_s: list[list[float]], spans: Watcher | None) -> Timing:
        """Play the program step by step."""
        many = WatchedClock(
            self._tape, self._mesh, self._slowness, spans, notes_waits=self._notes_waits
        )
        stall_s = many.run(attended_s)
        timing = self._timing(many.told, attended_s, float(many.now.max()), stall_s)
        return replace(timing, waits_s=many.waits_s)

    def _timing(
        self, told: Told, attended_s: list[list[float]], seconds: float, stall_s: float
    ) -> Timing:
        self._told, self._attended_s = told, [of_columns[0] for of_columns in attended_s]
        return self._tape.timing(told, self._attended_s, self._factor, seconds, stall_s)

    def _by_column(self, attended_s: list[list[float]]) -> list[tuple[Seconds, Seconds]]:
        """Return the seconds of each attention, and those of DRAM, of shape (C, 1)."""
        found = []
        for of_columns in attended_s:
            busy_s = [self._tape.dram_s(spent) for spent in of_columns]
            found.append((np.array(of_columns)[:, None], np.array(busy_s)[:, None]))
        return found


def _is_even(attended_s: list[list[float]]) -> bool:
    """Return whether attention takes as long in all columns."""
    return all(len(set(of_columns)) == 1 for of_columns in attended_s)


def _is_alike(delays: Seconds) -> bool:
    """Return whether all members of a group have the same distance to their farthest member."""
    return len(set(delays.max(axis=1).tolist())) == 1
