"""What a collective needs of the chip whose program it becomes a part of."""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from galaxy_mpi.arrays import F32, Bytes
from galaxy_mpi.ccl.wire import Wire
from galaxy_mpi.dtypes import DType
from galaxy_mpi.dtypes.codec import Codec
from galaxy_mpi.mesh import Axis
from galaxy_mpi.mesh.plane import Crossing, Label, Plane

__all__ = ["Bench", "Bound", "Clock"]

Times = NDArray[np.float64]


class Clock(Protocol):
    """A chip's device clock, as the collectives see it."""

    def enter(self, times: Times, index: int) -> None:
        """Write when this chip enters the collective, at ``index``."""

    def leave(self, times: Times) -> None:
        """Go on, given when every member entered."""


class Bench(Protocol):
    """A chip's program under construction (`galaxy_mpi.program.Binder`)."""

    rank: int
    clock: Clock | None
    """Of the collective that is bound now; None if nothing is charged for it."""

    def plane(self, axis: Axis) -> Plane:
        """Return the connection of this chip's group along ``axis``."""

    def index(self, axis: Axis) -> int:
        """Return this chip's place in its group."""

    def label(self, wire: Wire) -> Label:
        """Return what all members must agree on in the next collective."""

    def array(self, *shape: int) -> F32:
        """Return an array that lives until the op ends, or as long as it is read as its output."""

    def bytes(self, *shape: int) -> Bytes:
        """Return bytes that live as an `array` does."""

    def codec(self, dtype: DType, shape: tuple[int, ...]) -> Codec:
        """Return the codec of a shape; all ops of the thread share it."""

    def call(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Add a call to the phase."""

    def cross(self, crossing: Crossing) -> None:
        """End the phase: the next one begins behind the crossing."""


class Bound(Protocol):
    """A collective in a program: write the term, then cross, then read the result."""

    term: Any
    """Array into which calls write what this chip contributes, before `cross` is called. It may be
    written only after the collective before it on the same axis."""

    def cross(self) -> Any:
        """Add the exchange to the program and return the array of its result.

        The result of an all-gather may be a view of received memory: it may be read until the next
        collective on the same axis.
        """
