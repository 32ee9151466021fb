"""The device clock of all chips of a mesh, with all that happens on the way.

The recurrences are those of `galaxy_mpi.timing.chips_clock`, charge by charge; times are arrays
(R, C).
"""

import numpy as np

from galaxy_mpi.mesh import Axis, Mesh
from galaxy_mpi.program.charge import Consumed, Cross, Kernel, Take
from galaxy_mpi.timing.hops import Seconds, hop_delays, near_delays
from galaxy_mpi.timing.slowness import Slowness
from galaxy_mpi.timing.spans import NOISE_S, Watcher
from galaxy_mpi.timing.tape import Tape, Told
from galaxy_mpi.timing.ticks import array_in_ticks

__all__ = ["WatchedClock"]


class WatchedClock:
    """One evaluation of a program for all chips.

    Parameters
    ----------
    tape : Tape
    mesh : Mesh
    slowness : Slowness
    spans : Watcher, optional
        Receives every op, read and collective.
    notes_waits : bool
        Whether to fill ``waits_s``.

    Attributes
    ----------
    told : Told
        The record of chip (0, 0).
    now : ndarray of shape (R, C)
        When each chip is done, after `run`.
    waits_s : dict
        Seconds that each chip waited in collectives, by the rank of the chip that came last.
    """

    def __init__(
        self,
        tape: Tape,
        mesh: Mesh,
        slowness: Slowness,
        spans: Watcher | None,
        *,
        notes_waits: bool = False,
    ) -> None:
        self._tape, self._spans = tape, spans
        self._factor = slowness.chip_factors(mesh)
        self._wire_factors = {axis: slowness.wire_factors(mesh, axis) for axis in Axis}
        self._delays: dict[int, tuple[Seconds, Seconds]] = {}
        """Of each collective: of all members, and of neighbours."""
        self.told, self._n_issued = Told(), 0
        self._mesh, self._notes_waits = mesh, notes_waits
        self.waits_s: dict[int, dict[int, float]] = {}
        self.now: Seconds = np.zeros((mesh.rows, mesh.cols))
        self._stall_s, self._dram_free_s = self.now, self.now
        self._left_s: list[Seconds] = []
        """When each weight left the circular buffers."""

    def run(self, attended_s: list[list[float]]) -> float:
        """Play it, given the seconds of each attention by column; return the longest stall."""
        tape, rooms = self._tape, iter(self._tape.rooms)
        of_columns = [np.array(seconds) for seconds in attended_s]
        dram_s = [np.array([tape.dram_s(spent) for spent in seconds]) for seconds in attended_s]
        taken_bytes, spans = 0.0, self._spans
        for place, charge in enumerate(tape.charges):
            if spans is not None:
                spans.at(place, self.now)
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
                self._left_s[-1] = self.now
                if spans is not None:
                    spans.consumed(self.now, taken_bytes)
            else:
                self._cross(charge)
        if spans is not None:
            spans.end(self.now)
        return float(self._stall_s.max())

    def _work(self, kernel: Kernel, seconds: float | Seconds, spent: float) -> None:
        end = self.now + self._slowed(seconds)
        if self._spans is not None:
            self._spans.kernel(kernel, self.now, end, spent)
        self._end(end, self._tape.gap_s if kernel.has_gap else None)

    def _take(self, take: Take, room: int) -> None:
        """Wait for a weight; see `UniformClock`."""
        begin = self._dram_free_s
        if room >= 0:
            begin = np.maximum(begin, self._left_s[room])
        self._dram_free_s = begin + self._tape.read_s(take.n_bytes)
        stall_s = np.maximum(0.0, self._dram_free_s - self.now)
        if self._spans is not None:
            self._spans.take(take, (begin, self._dram_free_s), self.now)
        self._stall_s = self._stall_s + stall_s
        self.now = self.now + stall_s
        self.told.stalls.append(float(stall_s[0, 0]))
        self.told.ends.append(float(self.now[0, 0]))
        self._left_s.append(self.now)

    def _cross(self, cross: Cross) -> None:
        axis = cross.wire.axis
        if id(cross) not in self._delays:
            far = hop_delays(self._tape.costs.machine, self._mesh.size(axis), cross.laps)
            self._delays[id(cross)] = far, near_delays(far)
        delays = self._delays[id(cross)]
        wires = self._wire_factors[axis]
        block_s = cross.wire_s if cross.block_s is None else cross.block_s
        sent_s = [array_in_ticks(seconds * wires) for seconds in (block_s, cross.wire_s)]
        arrived = [self._arrived(axis, of) + sent for of, sent in zip(delays, sent_s, strict=True)]
        arrived_s = np.maximum(*arrived)
        end = arrived_s + self._slowed(cross.own_s)
        done = np.maximum(end, self.now + self._slowed(cross.beside_s))
        if self._spans is not None or self._notes_waits:
            # What signals and data take anyway, if all members enter together.
            reach = [_by_member(axis, of.max(axis=1)) for of in delays]
            alone = np.maximum(reach[0] + sent_s[0], reach[1] + sent_s[1])
            waited_s = arrived_s - self.now - alone
        if self._notes_waits:
            self._note_waits(axis, waited_s)
        if self._spans is not None:
            n_bytes = self._tape.crossed_bytes(cross)
            self._spans.cross(cross, self.now, (end, done), waited_s, n_bytes)
        self._end(done, self._tape.gap_s)

    def _note_waits(self, axis: Axis, waited_s: Seconds) -> None:
        """Add up for whom each chip waits."""
        last = self.now.argmax(axis=0 if axis is Axis.COLUMN else 1)
        for row, col in np.argwhere(waited_s > NOISE_S).tolist():
            of_last = (int(last[col]), col) if axis is Axis.COLUMN else (row, int(last[row]))
            if of_last != (row, col):
                waits = self.waits_s.setdefault(self._mesh.rank(row, col), {})
                other = self._mesh.rank(*of_last)
                waits[other] = waits.get(other, 0.0) + float(waited_s[row, col])

    def _arrived(self, axis: Axis, delays: Seconds) -> Seconds:
        """Return when the last data of the group arrives, from entry times and distances."""
        entries = self.now if axis is Axis.COLUMN else self.now.T  # (members, groups)
        arrived = (entries[None, :, :] + delays[:, :, None]).max(axis=1)
        result: Seconds = arrived if axis is Axis.COLUMN else arrived.T
        return result

    def _slowed(self, seconds: float | Seconds) -> Seconds:
        return array_in_ticks(seconds * self._factor)

    def _end(self, end: Seconds, gap_s: float | None) -> None:
        self.now = end
        if gap_s is not None:
            self._n_issued += 1
            self.now = np.maximum(end + gap_s, self._n_issued * self._tape.issue_s)
        self.told.ends.append(float(self.now[0, 0]))


def _by_member(axis: Axis, values: Seconds) -> Seconds:
    """Return a value per member of a group, broadcast to the chips (R, C)."""
    return values[:, None] if axis is Axis.COLUMN else values[None, :]
