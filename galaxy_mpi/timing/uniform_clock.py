"""The device clock of a mesh whose chips are all alike: one of them is evaluated for all."""

from collections.abc import Sequence

from galaxy_mpi.mesh import Mesh
from galaxy_mpi.program.charge import Consumed, Cross, Kernel, Take
from galaxy_mpi.timing.hops import Seconds, hop_delays, near_delays
from galaxy_mpi.timing.tape import Tape, Told

__all__ = ["UniformClock"]

_OP, _PART, _ATTEND, _ATTEND_PART, _TAKE, _CONSUMED, _CROSS = range(7)
"""Kinds of steps, the most frequent first."""

_Reach = tuple[float, float, float, float, float, float]
"""Of a collective: how far the farthest member is, its last block, how far the nearest is, the
whole wire, the chip's own time, and concurrent work, in seconds."""

_NO_REACH: _Reach = (0.0,) * 6

_Step = tuple[int, float, int, _Reach]
"""Kind; seconds, of a kernel or of reading a weight; the number of an attention, or of the weight
that must leave before one is read; the reach of a collective."""


class UniformClock:
    """Device time of a program where every chip does the same at the same time.

    Parameters
    ----------
    tape : Tape
    mesh : Mesh

    Notes
    -----
    The prefetcher starts to read a weight when DRAM is free and the buffer has room, that is, when
    the last of the weights that must leave first is consumed: ``ready = max(dram_free, room_free)
    + bytes / bandwidth``. Attention reads the cache from the same DRAM, which delays the
    prefetcher by the same time.
    """

    def __init__(self, tape: Tape, mesh: Mesh) -> None:
        self._tape = tape
        self._steps = self._list_steps(mesh)
        self._floors = self._list_floors()
        self._told = Told()

    def run(self, attended_s: Sequence[Sequence[float]]) -> tuple[Told, float, float]:
        """Return the record of a chip, when it is done, and how long it waited for weights.

        Parameters
        ----------
        attended_s : sequence of sequence of float
            Seconds of each attention by column, which are equal.
        """
        now, stall_s = self._play(attended_s)
        return self._told, now, stall_s

    def run_s(self, attended_s: Sequence[Sequence[float]]) -> float:
        """Return only the seconds of `run`."""
        return self._play(attended_s)[0]

    def _play(self, attended_s: Sequence[Sequence[float]]) -> tuple[float, float]:
        """Return when the program ends, and how long it waited for weights."""
        tape, floors, gap_s = self._tape, self._floors, self._tape.gap_s
        attended = [seconds[0] for seconds in attended_s]
        attended_dram_s = [tape.dram_s(spent) for spent in attended]
        told = self._told = Told()
        ends, left_s = told.ends, list[float]()
        now = total_stall_s = dram_free_s = 0.0
        for at, (kind, seconds, number, reach) in enumerate(self._steps):
            if kind == _OP:
                now = max(now + seconds + gap_s, floors[at])
            elif kind == _CROSS:
                far_s, block_s, near_s, wire_s, own_s, beside_s = reach
                end = max(now + far_s + block_s, now + near_s + wire_s) + own_s
                now = max(max(end, now + beside_s) + gap_s, floors[at])
            elif kind == _CONSUMED:
                left_s[-1] = now
                continue
            elif kind == _TAKE:
                begin = dram_free_s
                if number >= 0:
                    begin = max(begin, left_s[number])
                dram_free_s = begin + seconds
                stall_s = max(0.0, dram_free_s - now)
                told.stalls.append(stall_s)
                total_stall_s += stall_s
                now += stall_s
                left_s.append(now)
            elif kind == _PART:
                now = now + seconds
            elif kind == _ATTEND:
                now = max(now + attended[number] + gap_s, floors[at])
                dram_free_s = dram_free_s + attended_dram_s[number]
            else:
                now = now + attended[number]
                dram_free_s = dram_free_s + attended_dram_s[number]
            ends.append(now)
        return now, total_stall_s

    def _list_steps(self, mesh: Mesh) -> list[_Step]:
        tape, steps = self._tape, list[_Step]()
        rooms = iter(tape.rooms)
        reaches: dict[int, _Reach] = {}
        for charge in tape.charges:
            if isinstance(charge, Kernel):
                if callable(charge.seconds):
                    kind = _ATTEND if charge.has_gap else _ATTEND_PART
                    steps.append((kind, 0.0, tape.numbers[id(charge)], _NO_REACH))
                else:
                    steps.append((_OP if charge.has_gap else _PART, charge.seconds, 0, _NO_REACH))
            elif isinstance(charge, Take):
                steps.append((_TAKE, tape.read_s(charge.n_bytes), next(rooms), _NO_REACH))
            elif isinstance(charge, Consumed):
                steps.append((_CONSUMED, 0.0, 0, _NO_REACH))
            else:
                if id(charge) not in reaches:
                    n_members = mesh.size(charge.wire.axis)
                    delays = hop_delays(tape.costs.machine, n_members, charge.laps)
                    reaches[id(charge)] = _reach(charge, delays)
                steps.append((_CROSS, 0.0, 0, reaches[id(charge)]))
        return steps

    def _list_floors(self) -> list[float]:
        """Return the earliest time at which the host has issued the op after each step."""
        issue_s, n_issued, floors = self._tape.issue_s, 0, []
        for kind, *_ in self._steps:
            is_op = kind in (_OP, _ATTEND, _CROSS)
            n_issued += is_op
            floors.append(n_issued * issue_s if is_op else 0.0)
        return floors


def _reach(cross: Cross, delays: Seconds) -> _Reach:
    block_s = cross.wire_s if cross.block_s is None else cross.block_s
    far_s, near_s = float(delays[0].max()), float(near_delays(delays)[0].max())
    return far_s, block_s, near_s, cross.wire_s, cross.own_s, cross.beside_s
