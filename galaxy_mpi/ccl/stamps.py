"""Time stamps that travel with the data of a collective: when each member entered it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from galaxy_mpi.arrays import Bytes
from galaxy_mpi.mesh import Axis

__all__ = ["STAMP_BYTES", "Entries", "Stamper", "Stamping"]

Entries = NDArray[np.float64]
"""Device time at which each member of a group entered a collective, by index in the group."""

STAMP_BYTES = 8


class Stamper(Protocol):
    """A chip's device clock, as the collectives see it."""

    def enter(self, key: str, axis: Axis) -> float:
        """Return when this chip enters the collective of a buffer."""

    def leave(self, entries: Entries) -> None:
        """Take note of when all members entered it."""


@dataclass(frozen=True)
class Stamping:
    """The clock for one call of a collective."""

    clock: Stamper
    key: str
    axis: Axis

    def enter(self) -> float:
        """Return when this chip enters."""
        return self.clock.enter(self.key, self.axis)

    def leave(self, entries: Entries) -> None:
        """Take note of when all members entered."""
        self.clock.leave(entries)


def stamp_storage(allocate: Callable[[int], Bytes], *shape: int) -> tuple[Bytes, Entries]:
    """Return storage for stamps as bytes (*shape, 8) and as the numbers in it, zeros."""
    raw = allocate(int(np.prod(shape)) * STAMP_BYTES)
    raw[...] = 0
    return raw.reshape(*shape, STAMP_BYTES), raw.view(np.float64).reshape(shape)
