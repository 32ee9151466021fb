"""What a collective needs from the chip's program that it becomes part of."""

from collections.abc import Callable
from typing import Protocol

from galaxy_mpi.arrays import F32, Array, Bytes
from galaxy_mpi.ccl.wire import Wire
from galaxy_mpi.dtypes import DType
from galaxy_mpi.dtypes.codec import Codec
from galaxy_mpi.mesh import Axis
from galaxy_mpi.mesh.plane import Crossing, Label, Plane

__all__ = ["Bound", "Builder", "Gather", "Scatter"]


class Builder(Protocol):
    """A chip's program under construction (`galaxy_mpi.program.Binder`)."""

    rank: int

    def plane(self, axis: Axis) -> Plane:
        """Return the connection of this chip's group along ``axis``."""

    def index(self, axis: Axis) -> int:
        """Return this chip's index in its group."""

    def label(self, wire: Wire) -> Label:
        """Return what all members must agree on in the next collective."""

    def array(self, *shape: int) -> F32:
        """Return an array that lives until the op ends, or as long as it is read as output."""

    def bytes(self, *shape: int) -> Bytes:
        """Return bytes that live as an `array` does."""

    def codec(self, dtype: DType, shape: tuple[int, ...]) -> Codec:
        """Return the codec of a shape; all ops of the thread share it."""

    def call(self, function: Callable[..., object], *arguments: object) -> None:
        """Add a call to the phase."""

    def cross(self, crossing: Crossing) -> None:
        """End the phase; the next one begins after the crossing."""


class Bound(Protocol):
    """A collective in a program: write the term, then cross, then read the result."""

    term: Array
    """Array for this chip's contribution. Calls write it before `cross` is called, and after the
    previous collective on the same axis."""

    def cross(self) -> Array:
        """Add the exchange to the program and return the array of its result.

        The result of an all-gather may be a view of received memory: it may be read until the next
        collective on the same axis.
        """


class Gather(Bound, Protocol):
    """An all-gather whose result can be written where the next op reads it."""

    def cross(self, out: Array | None = None) -> Array:
        """Return the members' blocks (size, *sent), in ``out`` if it is given."""


class Scatter(Protocol):
    """A reduce-scatter in a program, see `Bound`."""

    term: F32

    def cross(self, out: F32 | None = None) -> F32:
        """Add the exchange; return this chip's chunk of the sum, in ``out`` if given."""
