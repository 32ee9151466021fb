"""The device clock of one chip of a run; it learns from messages when others entered a collective.

The time between two collectives is known in advance: a `ChipClock` is made for a program, as a list
of steps. When the chip enters a collective, its time is sent with the data. The entry times of the
whole group come back, and from these the clock advances to the next collective.
"""

from collections.abc import Sequence
from typing import Any

from galaxy_mpi.ccl.wire import Kind, Wire
from galaxy_mpi.errors import CollectiveError
from galaxy_mpi.mesh import Axis, Mesh
from galaxy_mpi.program.charge import Charge, Consumed, Cross, Kernel, Take
from galaxy_mpi.program.op import Use
from galaxy_mpi.timing.chip_collective import Collective, Times, hop_delays
from galaxy_mpi.timing.slowness import Slowness
from galaxy_mpi.timing.tape import Tape, Told
from galaxy_mpi.timing.times import Timing

__all__ = ["ChipClock"]

_OP, _PART, _ATTEND, _ATTEND_PART, _TAKE, _CONSUMED, _CROSS, _END = range(8)
"""Kinds of steps, the most frequent first."""

_Step = tuple[int, Any, int]
"""Kind; then seconds, the number of an attention, or a `Collective`; then a number. For a weight:
the weight that must leave first. For a collective: how many steps later the one follows that is
sent together with it, 0 if none."""


class ChipClock:
    """Device time of one chip in a program.

    Parameters
    ----------
    tape : Tape
    mesh : Mesh
    rank : int
    slowness : Slowness, optional

    Attributes
    ----------
    now : float
        When the worker cores become free.
    stall_s : float
        Seconds that the cores waited for the prefetcher.
    waits_s : dict of int to float
        Seconds that the cores waited in collectives, by rank of the chip that entered last.

    Notes
    -----
    The prefetcher starts to read a weight when DRAM is free and the buffer has room, that is, when
    the last of the weights that must leave first is consumed: ``ready = max(dram_free, room_free)
    + bytes / bandwidth``. Attention reads the cache from the same DRAM, which delays the
    prefetcher by the same time.
    """

    def __init__(self, tape: Tape, mesh: Mesh, rank: int, slowness: Slowness | None = None) -> None:
        slowness = slowness or Slowness()
        self._tape, (row, col) = tape, mesh.coord(rank)
        self._factors = slowness.chip_factors(mesh)
        self._factor, self._column = float(self._factors[row, col]), col
        self._wire_factors = {
            axis: float(slowness.wire_factors(mesh, axis)[row, col]) for axis in Axis
        }
        self._mesh, self._rank = mesh, rank
        self._at, self._told = 0, Told()
        self._steps = self._list_steps()
        self._floors = self._list_floors()
        """Earliest time at which the host has issued the op after each step; 0 if irrelevant."""
        self._seen: set[tuple[int, str, Axis, Kind]] = set()
        self._attended_s: list[float] = []
        self._own_attended_s: list[float] = []
        self._attended_dram_s: list[float] = []
        self._begin()

    def is_charged(self, use: Use, wire: Wire) -> bool:
        """Return whether the exchange that is being bound carries device time.

        The first exchange of an op does, if the op has a charge with that key, axis and kind. Later
        slabs do not, nor does a group of one chip that a system skips.
        """
        what = (id(use), wire.key, wire.axis, wire.kind)
        if what in self._seen:
            return False
        self._seen.add(what)
        return any(
            isinstance(charge, Cross)
            and (charge.wire.key, charge.wire.axis, charge.wire.kind) == what[1:]
            for charge in use.op.priced(self._tape.costs)
        )

    def start(self, positions: Sequence[int] = ()) -> None:
        """Begin at time 0 and advance to the first collective.

        Parameters
        ----------
        positions : sequence of int
            For a decode step: position of the longest user in each column; -1 for no user.
        """
        if self._tape.attentions:
            here = positions[self._column : self._column + 1]
            self._attended_s = [seconds for (seconds,) in self._tape.attended_s(here)]
            self._attended_dram_s = [self._tape.dram_s(spent) for spent in self._attended_s]
            self._own_attended_s = [seconds * self._factor for seconds in self._attended_s]
        self._begin()
        self._play()

    def enter(self, times: Times, index: int) -> None:
        """Write the time at which this chip enters the collective to ``times[index]``."""
        times[index] = self.now

    def leave(self, times: Times) -> None:
        """Advance, given when every member entered."""
        collective, ahead = self._collective()
        entries: list[float] = times.tolist()
        gap_s = self._tape.gap_s
        while ahead:
            entries = [
                self._issued(collective.left_s(entries, at) + gap_s, self._at)
                for at in range(len(entries))
            ]
            self._ride(entries[collective.index], ahead)
            collective, ahead = self._collective()
        last = max(entries)
        if last > entries[collective.index]:
            self._note_wait(collective, entries, last)
        self.now = self._issued(collective.left_s(entries, collective.index) + gap_s, self._at)
        self._told.ends.append(self.now)
        self._at += 1
        self._play()

    def leave_alike(self) -> None:
        """Advance, if all members enter when this chip does and none is slow."""
        collective, _ = self._collective()
        left_s = collective.left_alike_s(self.now)
        self.now = self._issued(left_s + self._tape.gap_s, self._at)
        self._told.ends.append(self.now)
        self._at += 1
        self._play()

    @property
    def is_done(self) -> bool:
        """Whether there is no collective left."""
        return self._steps[self._at][0] == _END

    def finish(self) -> None:
        """Check that all collectives were entered.

        Raises
        ------
        CollectiveError
            If one was not, because then the charges differ from what was run.
        """
        if not self.is_done:
            wire = self._collective()[0].cross.wire
            raise CollectiveError(
                f"device time expects {wire}, which was never entered; fix its op, whose `bind` "
                f"and `charges` must agree"
            )

    def timing(self) -> Timing:
        """Return the figures of this chip at the end."""
        return self._tape.timing(self._told, self._attended_s, self._factor, self.now, self.stall_s)

    def spans_s(self) -> list[tuple[Charge, float]]:
        """Return each charge with its seconds, including gap and waiting."""
        return self._tape.spans_s(self._told, self._attended_s, self._factor)

    # --- between collectives

    def _begin(self) -> None:
        self.now, self.stall_s = 0.0, 0.0
        self.waits_s: dict[int, float] = {}
        self._told, self._at = Told(), 0
        self._dram_free_s = 0.0
        self._left_s: list[float] = []
        """When each weight left the circular buffer."""

    def _list_steps(self) -> list[_Step]:
        tape, factor, steps = self._tape, self._factor, list[_Step]()
        bandwidth, rooms = tape.costs.machine.dram_bytes_per_s, iter(tape.rooms)
        collectives: dict[int, Collective] = {}
        for charge in tape.charges:
            if isinstance(charge, Kernel):
                if callable(charge.seconds):
                    kind = _ATTEND if charge.has_gap else _ATTEND_PART
                    steps.append((kind, tape.numbers[id(charge)], 0))
                else:
                    kind = _OP if charge.has_gap else _PART
                    steps.append((kind, charge.seconds * factor, 0))
            elif isinstance(charge, Take):
                steps.append((_TAKE, charge.n_bytes / bandwidth, next(rooms)))
            elif isinstance(charge, Consumed):
                steps.append((_CONSUMED, 0.0, 0))
            else:
                if id(charge) not in collectives:
                    collectives[id(charge)] = self._new_collective(charge)
                if charge.rides:
                    before = _last_cross(steps)
                    steps[before] = (*steps[before][:2], len(steps) - before)
                steps.append((_CROSS, collectives[id(charge)], 0))
        return [*steps, (_END, None, 0)]

    def _list_floors(self) -> list[float]:
        issue_s, n_issued, floors = self._tape.issue_s, 0, []
        for kind, _, _ in self._steps:
            is_op = kind in (_OP, _ATTEND, _CROSS)
            n_issued += is_op
            floors.append(n_issued * issue_s if is_op else 0.0)
        return floors

    def _new_collective(self, cross: Cross) -> Collective:
        axis = cross.wire.axis
        row, col = self._mesh.coord(self._rank)
        delays = hop_delays(self._tape.costs.machine, self._mesh.size(axis))
        factors = self._factors[:, col] if axis is Axis.COLUMN else self._factors[row, :]
        index = self._mesh.index(self._rank, axis)
        return Collective(cross, delays, factors, self._wire_factors[axis], index)

    def _play(self) -> None:
        """Advance to the next collective, or to the end."""
        steps, at, now, gap_s = self._steps, self._at, self.now, self._tape.gap_s
        ends, floors = self._told.ends, self._floors
        while True:
            kind, what, room = steps[at]
            if kind == _OP:
                now = max(now + what + gap_s, floors[at])
            elif kind >= _CROSS:
                break
            elif kind == _CONSUMED:
                self._left_s[-1] = now
                at += 1
                continue
            elif kind == _TAKE:
                begin = self._dram_free_s
                if room >= 0:
                    begin = max(begin, self._left_s[room])
                self._dram_free_s = begin + what
                stall_s = max(0.0, self._dram_free_s - now)
                self._told.stalls.append(stall_s)
                self.stall_s += stall_s
                now += stall_s
                self._left_s.append(now)
            elif kind == _PART:
                now = now + what
            elif kind == _ATTEND:
                now = max(now + self._own_attended_s[what] + gap_s, floors[at])
                self._dram_free_s = self._dram_free_s + self._attended_dram_s[what]
            else:
                now = now + self._own_attended_s[what]
                self._dram_free_s = self._dram_free_s + self._attended_dram_s[what]
            ends.append(now)
            at += 1
        self._at, self.now = at, now

    # --- collectives

    def _collective(self) -> tuple[Collective, int]:
        """Return the current collective, and how many steps later the one sent with it comes."""
        kind, what, ahead = self._steps[self._at]
        if kind != _CROSS:
            raise CollectiveError(
                "a collective ended where device time expects the end of the program; fix its op, "
                "whose `bind` and `charges` must agree"
            )
        return what, ahead

    def _note_wait(self, collective: Collective, entries: list[float], last: float) -> None:
        """Record which chip this one waits for, and how long beyond the delay of signals."""
        waited_s = collective.waited_s(entries)
        if waited_s > 0:
            row, col = self._mesh.coord(self._rank)
            other = entries.index(last)
            is_column = collective.cross.wire.axis is Axis.COLUMN
            rank = self._mesh.rank(*((other, col) if is_column else (row, other)))
            self.waits_s[rank] = self.waits_s.get(rank, 0.0) + waited_s

    def _issued(self, now: float, at: int) -> float:
        """Return when the op after a step can begin: not before the host has issued it."""
        return max(now, self._floors[at])

    def _ride(self, now: float, ahead: int) -> None:
        """Advance to the collective that is sent along. A weight may leave before; that is free."""
        self._told.ends.append(now)
        if ahead > 1:
            self._left_s[-1] = now
        self._at += ahead


def _last_cross(steps: list[_Step]) -> int:
    at = len(steps) - 1
    while steps[at][0] != _CROSS:
        at -= 1
    return at
