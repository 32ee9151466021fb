"""Times of very many decode steps, identical to those of `galaxy_mpi.timing.mesh_clock`.

The time of a step depends on its users' positions only through the time of attention in each
column. Attention reads its cache in chunks, so many positions take equally long: they form a
*class*. The time of a step is a function of the class of each column. `StepTable` evaluates each
combination of classes once, together with its neighbours, which are likely to follow.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from galaxy_mpi.dtypes import TILE
from galaxy_mpi.mesh import Axis, Mesh
from galaxy_mpi.program.charge import Consumed, Cross, Kernel, Take
from galaxy_mpi.timing.hops import hop_delays, near_delays
from galaxy_mpi.timing.slowness import Slowness
from galaxy_mpi.timing.tape import Tape

__all__ = ["StepCost", "StepTable"]

Seconds = NDArray[np.float64]

Key = tuple[int, ...]
"""The class of each column."""

AT_ONCE = 256
"""Combinations that are evaluated together, in arrays: nearly as fast as a single one."""

AHEAD = 32
"""Further tiles of positions that are classified together with the one asked for."""


@dataclass(frozen=True)
class StepCost:
    """Cost of a decode step."""

    seconds: float
    dram_bytes: float
    """Of one chip, mean over the columns."""
    flops: float
    """Of one chip, mean over the columns, as if at LoFi."""


@dataclass(frozen=True)
class _Attended:
    """Cost of attention in one column: all that clocks read of its positions."""

    seconds: tuple[float, ...]
    """Of each attention of the tape."""
    busy_s: tuple[float, ...]
    """For how long each one keeps DRAM busy."""
    dram_bytes: float
    """Of the whole step."""
    flops: float


class StepTable:
    """Costs of decode steps.

    Parameters
    ----------
    tape : Tape
        Of a decode step.
    mesh : Mesh
    slowness : Slowness, optional

    Attributes
    ----------
    n_evaluated : int
        Combinations evaluated so far.
    """

    def __init__(self, tape: Tape, mesh: Mesh, slowness: Slowness | None = None) -> None:
        self._tape, self._mesh, self._slowness = tape, mesh, slowness or Slowness()
        self._clock = _ManySteps(tape, mesh, self._slowness)
        self._classes: list[_Attended] = []
        self._of_tiles: list[int] = []
        """Class of a column without users, then the class of each tile of positions."""
        self._mirrors = self._list_mirrors()
        self._width = max(1, int(AT_ONCE ** (1 / mesh.cols) + 1e-9))
        self._seconds: dict[Key, float] = {}
        self._costs: dict[Key, StepCost] = {}
        self.n_evaluated = 0

    def step(self, positions: Sequence[int]) -> StepCost:
        """Return the cost of a step.

        Parameters
        ----------
        positions : sequence of int
            The longest user's position in each column; -1 for a column without users.
        """
        key = tuple([self._class_of(position) for position in positions])
        found = self._costs.get(key)
        if found is None:
            found = self._costs[key] = self._cost(key)
        return found

    def _class_of(self, position: int) -> int:
        place = position // TILE + 1  # 0: a column without users
        if place >= len(self._of_tiles):
            self._extend(place + AHEAD)
        return self._of_tiles[place]

    def _extend(self, n_places: int) -> None:
        """Classify more tiles of positions; neighbouring tiles of equal cost share a class."""
        for place in range(len(self._of_tiles), n_places):
            spent = [seconds for (seconds,) in self._tape.attended_s([place * TILE - 1])]
            attended = _Attended(
                tuple(map(float, spent)),
                tuple(self._tape.dram_s(each) for each in spent),
                *self._tape.work_of(spent),
            )
            if not self._classes or attended != self._classes[-1]:
                self._classes.append(attended)
            self._of_tiles.append(len(self._classes) - 1)

    def _cost(self, key: Key) -> StepCost:
        """Return the cost of a combination: that of the first one among its mirror images."""
        first = min(tuple([key[place] for place in order]) for order in self._mirrors)
        if first == key:
            if key not in self._seconds:
                self._evaluate(key)
            columns = [self._classes[number] for number in key]
            n_bytes, flops = (
                math.fsum(getattr(column, name) for column in columns) / len(columns)
                for name in ("dram_bytes", "flops")
            )
            return StepCost(self._seconds[key], n_bytes, flops)
        if first not in self._costs:
            self._costs[first] = self._cost(first)
        return self._costs[first]

    def _evaluate(self, key: Key) -> None:
        """Evaluate a combination and its neighbours, one of each set of mirror images."""
        width, n_classes = self._width, len(self._classes)
        starts = [number // width * width for number in key]
        near = np.indices([min(width, n_classes - start) for start in starts], np.int64)
        keys = near.reshape(len(key), -1).T + starts  # (B, C)
        # Keys as integers with the same order.
        places = n_classes ** np.arange(len(key) - 1, -1, -1, dtype=object)
        firsts = (keys[:, self._mirrors] @ places).min(axis=1)
        own = keys @ places
        wanted = [
            each
            for each, is_first in zip(map(tuple, keys.tolist()), firsts == own, strict=True)
            if is_first and each not in self._seconds
        ]
        times = self._clock.run(self._attended(wanted))
        self._seconds.update(zip(wanted, times, strict=True))
        self.n_evaluated += len(wanted)

    def _attended(self, keys: Sequence[Key]) -> list[tuple[Seconds, Seconds]]:
        """Return each attention's seconds and DRAM-busy seconds, both of shape (C, B)."""
        found, numbers = [], np.array(keys, np.int64).T
        for which in range(len(self._tape.attentions)):
            seconds = np.array([each.seconds[which] for each in self._classes])
            busy = np.array([each.busy_s[which] for each in self._classes])
            found.append((seconds[numbers], busy[numbers]))
        return found

    def _list_mirrors(self) -> list[Key]:
        """Return the rotations and reflections of columns that keep all distances."""
        cols = self._mesh.cols
        itself = tuple(range(cols))
        if self._slowness != Slowness():
            return [itself]
        delays = hop_delays(self._tape.costs.machine, cols)
        turned = [itself[n:] + itself[:n] for n in range(cols)]
        orders = dict.fromkeys([*turned, *(order[::-1] for order in turned)])
        return [order for order in orders if (delays[np.ix_(order, order)] == delays).all()]


class _ManySteps:
    """The recurrences of a clock for many steps at once, in arrays of shape (R, C, B).

    If rows of chips cannot differ, R is 1 and one row stands for all.
    """

    def __init__(self, tape: Tape, mesh: Mesh, slowness: Slowness) -> None:
        self._tape, machine = tape, tape.costs.machine
        self._delays = {axis: hop_delays(machine, mesh.size(axis)) for axis in Axis}
        farthest = self._delays[Axis.COLUMN].max(axis=1)
        is_even = slowness == Slowness()
        self._is_one_row = is_even and len(set(farthest.tolist())) == 1
        kept = slice(0, 1 if self._is_one_row else mesh.rows)
        self._shape = (1 if self._is_one_row else mesh.rows, mesh.cols)
        self._factor: float | Seconds = (
            1.0 if is_even else slowness.chip_factors(mesh)[kept, :, None]
        )
        self._wires: dict[Axis, float | Seconds] = {
            axis: 1.0 if is_even else slowness.wire_factors(mesh, axis)[kept, :, None]
            for axis in Axis
        }
        self._meetings: dict[int, _Meeting] = {}

    def run(self, attended: Sequence[tuple[Seconds, Seconds]]) -> list[float]:
        """Return the seconds of each step, until its last chip is done.

        Parameters
        ----------
        attended : sequence of (array, array)
            Of each attention: seconds, and seconds for which it keeps DRAM busy, shape (C, B).
        """
        tape, rooms, factor = self._tape, iter(self._tape.rooms), self._factor
        gap_s, issue_s, n_issued = tape.gap_s, tape.issue_s, 0
        bandwidth = tape.costs.machine.dram_bytes_per_s
        n_steps = attended[0][0].shape[1] if attended else 1
        worked = [seconds * factor for seconds, _ in attended]
        now: Seconds = np.zeros((*self._shape, n_steps))
        dram_free, left = now, list[Seconds]()
        for charge in tape.charges:
            has_gap = True
            if isinstance(charge, Kernel):
                has_gap = charge.has_gap
                if callable(charge.seconds):
                    number = tape.numbers[id(charge)]
                    now = now + worked[number]
                    dram_free = dram_free + attended[number][1]
                else:
                    now = now + float(charge.seconds) * factor
            elif isinstance(charge, Take):
                room = next(rooms)
                begin = np.maximum(dram_free, left[room]) if room >= 0 else dram_free
                dram_free = begin + charge.n_bytes / bandwidth
                now = now + np.maximum(0.0, dram_free - now)
                left.append(now)
                continue
            elif isinstance(charge, Consumed):
                left[-1] = now
                continue
            else:
                if id(charge) not in self._meetings:
                    self._meetings[id(charge)] = self._meeting(charge)
                now = self._meetings[id(charge)].left(now)
            if has_gap:
                n_issued += 1
                now = now + gap_s
                if issue_s:
                    now = np.maximum(now, n_issued * issue_s)
        slowest: list[float] = now.max(axis=(0, 1)).tolist()
        return slowest

    def _meeting(self, cross: Cross) -> "_Meeting":
        axis = cross.wire.axis
        far = self._delays[axis] * cross.laps
        near = near_delays(far)
        if axis is Axis.COLUMN and self._is_one_row:  # all rows enter together
            far, near = (reach[:1].max(axis=1)[:, None] for reach in (far, near))
        both = np.stack([far, near])  # (far or near, to, from)
        block_s = cross.wire_s if cross.block_s is None else cross.block_s
        wires = [float(seconds) * self._wires[axis] for seconds in (block_s, cross.wire_s)]
        own_s, beside_s = (float(s) * self._factor for s in (cross.own_s, cross.beside_s))
        is_alone = both.shape[1] == 1
        if axis is Axis.COLUMN:
            delays, member = both[:, :, :, None, None], 2
        else:
            delays, member = both[:, None, :, :, None], 3
        return _Meeting(
            delays, member, is_alone, wires[0], wires[1], own_s, beside_s, cross.beside_s > 0
        )


@dataclass(frozen=True)
class _Meeting:
    """A collective in all groups of an axis, for many steps at once."""

    delays: Seconds
    """To the farthest and to the nearest members, broadcast against times."""
    member: int
    """Dimension of the sending member."""
    is_alone: bool
    """Whether one member stands for the group."""
    block_s: float | Seconds
    wire_s: float | Seconds
    own_s: float | Seconds
    beside_s: float | Seconds
    has_beside: bool

    def left(self, now: Seconds) -> Seconds:
        """Return when each chip continues, without the gap after the op; see `MeshClock`."""
        if self.is_alone:
            far, near = now + self.delays[0].item(), now + self.delays[1].item()
        else:
            entries = now[None, None] if self.member == 2 else now[None, :, None]
            far, near = np.maximum.reduce(entries + self.delays, axis=self.member)
        end: Seconds = np.maximum(far + self.block_s, near + self.wire_s) + self.own_s
        if self.has_beside:
            end = np.maximum(end, now + self.beside_s)
        return end
