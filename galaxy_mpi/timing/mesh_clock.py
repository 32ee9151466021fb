"""The device clock of all chips of a mesh at once.

Where nothing differs between chips, one is evaluated (`galaxy_mpi.timing.uniform_clock`), with the
same recurrences in the same order, so both agree to the last bit.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from galaxy_mpi.mesh import Axis, Mesh
from galaxy_mpi.program.charge import Charge, Consumed, Cross, Kernel, Take
from galaxy_mpi.timing.hops import Seconds, hop_delays, near_delays
from galaxy_mpi.timing.slowness import Slowness
from galaxy_mpi.timing.spans import NOISE_S, ProgramSpans, Watcher
from galaxy_mpi.timing.step_record import StepRecord
from galaxy_mpi.timing.tape import Tape, Told
from galaxy_mpi.timing.times import Timing
from galaxy_mpi.timing.trace import Trace
from galaxy_mpi.timing.uniform_clock import UniformClock

__all__ = ["MeshClock"]


class MeshClock:
    """Device time of every chip in a program.

    If no chip can differ from another, only one is evaluated; otherwise times are arrays (R, C).

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
        self._delays = {axis: hop_delays(tape.costs.machine, mesh.size(axis)) for axis in Axis}
        self._one: UniformClock | None = None
        self._last: UniformClock | _ManyChips | None = None
        if slowness == Slowness() and all(map(_is_alike, self._delays.values())):
            self._one = UniformClock(tape, mesh)

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
        one = self._one
        if one is None or trace is not None or any(len(set(of)) > 1 for of in attended_s):
            mesh, uses = self._mesh, self._tape.uses
            spans = None if trace is None else ProgramSpans(trace, mesh, uses)
            self._last = many = _ManyChips(
                self._tape, mesh, self._slowness, spans, notes_waits=self._notes_waits
            )
            return many.run(attended_s)
        self._last = one
        return one.run(attended_s)

    def record(self, positions: Sequence[int]) -> tuple[Timing, StepRecord]:
        """Return the time of a decode step, and what every chip does in it; see `run`."""
        record = StepRecord(self._tape.uses)
        many = _ManyChips(self._tape, self._mesh, self._slowness, record)
        return many.run(self._tape.attended_s(positions)), record

    def run_s(self, positions: Sequence[int] = ()) -> float:
        """Return only the seconds of `run`."""
        if self._one is None or len(set(positions)) > 1:
            return self.run(positions).seconds
        self._last = self._one
        return self._one.run_s(self._tape.attended_s(positions))

    def spans_s(self) -> list[tuple[Charge, float]]:
        """Return each charge of the last run with its seconds on chip (0, 0)."""
        assert self._last is not None
        return self._last.spans_s()


def _is_alike(delays: Seconds) -> bool:
    """Return whether all members of a group have the same distance to their farthest member."""
    return len(set(delays.max(axis=1).tolist())) == 1


class _ManyChips:
    """One evaluation of a tape for all chips."""

    def __init__(
        self,
        tape: Tape,
        mesh: Mesh,
        slowness: Slowness,
        spans: Watcher | None,
        *,
        notes_waits: bool = False,
    ) -> None:
        self._tape, self._machine, self._spans = tape, tape.costs.machine, spans
        self._factor = slowness.chip_factors(mesh)
        self._wire_factors = {axis: slowness.wire_factors(mesh, axis) for axis in Axis}
        self._delays = {axis: hop_delays(self._machine, mesh.size(axis)) for axis in Axis}
        self._told, self._n_issued = Told(), 0
        self._mesh, self._notes_waits = mesh, notes_waits
        self._waits_s: dict[int, dict[int, float]] = {}
        """Seconds that each chip waited in collectives, by the rank of the chip that came last."""
        self._now: Seconds = np.zeros((mesh.rows, mesh.cols))
        self._stall_s, self._dram_free_s = self._now, self._now
        self._left_s: list[Seconds] = []
        """When each weight left the circular buffers."""

    def run(self, attended_s: list[list[float]]) -> Timing:
        """Return the figures, given the seconds of each attention by column."""
        tape, rooms = self._tape, iter(self._tape.rooms)
        of_columns = [np.array(seconds) for seconds in attended_s]
        dram_s = [np.array([tape.dram_s(spent) for spent in seconds]) for seconds in attended_s]
        taken_bytes, spans = 0.0, self._spans
        for place, charge in enumerate(tape.charges):
            if spans is not None:
                spans.at(place, self._now)
            if isinstance(charge, Kernel):
                seconds: float | Seconds
                if callable(charge.seconds):
                    number = tape.numbers[id(charge)]
                    seconds, spent = of_columns[number], attended_s[number][0]
                    self._dram_free_s = self._dram_free_s + dram_s[number]
                else:
                    seconds = spent = charge.seconds
                self._work(charge, seconds, spent)
            elif isinstance(charge, Take):
                taken_bytes = charge.n_bytes
                self._take(charge, next(rooms))
            elif isinstance(charge, Consumed):
                self._left_s[-1] = self._now
                if spans is not None:
                    spans.consumed(self._now, taken_bytes)
            else:
                self._cross(charge)
        if spans is not None:
            spans.end(self._now)
        first_s = self._attended_s = [seconds[0] for seconds in attended_s]
        factor = float(self._factor[0, 0])
        slowest_s, stall_s = float(np.max(self._now)), float(np.max(self._stall_s))
        timing = tape.timing(self._told, first_s, factor, slowest_s, stall_s)
        return replace(timing, waits_s=self._waits_s)

    def spans_s(self) -> list[tuple[Charge, float]]:
        """Return each charge with its seconds on chip (0, 0)."""
        return self._tape.spans_s(self._told, self._attended_s, float(self._factor[0, 0]))

    def _work(self, kernel: Kernel, seconds: float | Seconds, spent: float) -> None:
        end = self._now + seconds * self._factor
        if self._spans is not None:
            self._spans.kernel(kernel, self._now, end, spent)
        self._end(end, self._tape.gap_s if kernel.has_gap else None)

    def _take(self, take: Take, room: int) -> None:
        """Wait for a weight; see `UniformClock`."""
        begin = self._dram_free_s
        if room >= 0:
            begin = np.maximum(begin, self._left_s[room])
        self._dram_free_s = begin + take.n_bytes / self._machine.dram_bytes_per_s
        stall_s = np.maximum(0.0, self._dram_free_s - self._now)
        if self._spans is not None:
            self._spans.take(take, (begin, self._dram_free_s), self._now)
        self._stall_s = self._stall_s + stall_s
        self._now = self._now + stall_s
        self._told.stalls.append(float(stall_s[0, 0]))
        self._told.ends.append(float(self._now[0, 0]))
        self._left_s.append(self._now)

    def _cross(self, cross: Cross) -> None:
        axis = cross.wire.axis
        delays, wires = self._delays[axis] * cross.laps, self._wire_factors[axis]
        near = near_delays(delays)
        block_s = cross.wire_s if cross.block_s is None else cross.block_s
        farthest = self._arrived(axis, delays) + block_s * wires
        nearest = self._arrived(axis, near) + cross.wire_s * wires
        end = np.maximum(farthest, nearest) + cross.own_s * self._factor
        done = np.maximum(end, self._now + cross.beside_s * self._factor)
        if self._spans is not None or self._notes_waits:
            # What signals and data take anyway, if all members enter together.
            reach = [_by_member(axis, of.max(axis=1)) for of in (delays, near)]
            alone = np.maximum(reach[0] + block_s * wires, reach[1] + cross.wire_s * wires)
            waited_s = np.maximum(farthest, nearest) - self._now - alone
        if self._notes_waits:
            self._note_waits(axis, waited_s)
        if self._spans is not None:
            n_bytes = self._tape.crossed_bytes(cross)
            self._spans.cross(cross, self._now, (end, done), waited_s, n_bytes)
        self._end(done, self._tape.gap_s)

    def _note_waits(self, axis: Axis, waited_s: Seconds) -> None:
        """Add up for whom each chip waits."""
        last = self._now.argmax(axis=0 if axis is Axis.COLUMN else 1)
        for row, col in np.argwhere(waited_s > NOISE_S).tolist():
            of_last = (int(last[col]), col) if axis is Axis.COLUMN else (row, int(last[row]))
            if of_last != (row, col):
                waits = self._waits_s.setdefault(self._mesh.rank(row, col), {})
                other = self._mesh.rank(*of_last)
                waits[other] = waits.get(other, 0.0) + float(waited_s[row, col])

    def _arrived(self, axis: Axis, delays: Seconds) -> Seconds:
        """Return when the last data of the group arrives, from entry times and distances."""
        entries = self._now if axis is Axis.COLUMN else self._now.T  # (members, groups)
        arrived = (entries[None, :, :] + delays[:, :, None]).max(axis=1)
        result: Seconds = arrived if axis is Axis.COLUMN else arrived.T
        return result

    def _end(self, end: Seconds, gap_s: float | None) -> None:
        self._now = end
        if gap_s is not None:
            self._n_issued += 1
            self._now = np.maximum(end + gap_s, self._n_issued * self._tape.issue_s)
        self._told.ends.append(float(self._now[0, 0]))


def _by_member(axis: Axis, values: Seconds) -> Seconds:
    """Return a value per member of a group, broadcast to the chips (R, C)."""
    return values[:, None] if axis is Axis.COLUMN else values[None, :]
