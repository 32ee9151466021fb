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

from galaxy_mpi.dtypes import TILE
from galaxy_mpi.mesh import Mesh
from galaxy_mpi.timing.chips_clock import ChipsClock
from galaxy_mpi.timing.hops import Seconds, hop_delays
from galaxy_mpi.timing.slowness import Slowness
from galaxy_mpi.timing.tape import Tape

__all__ = ["StepCost", "StepTable"]

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
        self._clock = ChipsClock(tape, mesh, self._slowness)
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
        times = self._clock.run(self._attended(wanted)).seconds
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
