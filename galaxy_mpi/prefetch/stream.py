"""Large weights in pieces: each is unpacked and multiplied while it is in the cache.

An unpacked weight of a large model does not fit in a cache: written as float32 and read again it
costs as much as its product, and every rank needs room for it. A piece of some rows needs neither::

    packed weight (K, N)       piece 0 | piece 1 | ...          read once, packed
    x (M, K)                   out  = x[:, 0] @ piece 0
                               out += x[:, 1] @ piece 1 ...     in float32

There is no thread that unpacks ahead: with as many ranks as here on a core, another rank always has
something to do.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

from galaxy_mpi.arrays import F32
from galaxy_mpi.dtypes import FLOAT32, TILE, PackedTensor
from galaxy_mpi.prefetch.weights import WeightId

if TYPE_CHECKING:
    from galaxy_mpi.systems.chip import ChipBinder

__all__ = ["PIECE_VALUES", "Product", "WeightStream", "piece_rows"]

PIECE_VALUES = 2**19
"""Values of a piece: 2 MiB of float32. Half and twice as many take as long."""


def piece_rows(shape: tuple[int, ...]) -> int:
    """Return the rows of a piece of a weight: whole rows of tiles.

    Examples
    --------
    >>> piece_rows((2048, 3584)), piece_rows((64, 128_256)), piece_rows((64, 3584))
    (128, 32, 64)
    """
    rows, width = shape
    return min(rows, max(TILE, PIECE_VALUES // width // TILE * TILE))


class Product(Protocol):
    """Multiplies matrices whose values are those of bfloat16; see `galaxy_mpi.kernels.multiply`."""

    def bind(
        self, x: F32, w: F32, out: F32, term: F32, *, adds: bool
    ) -> list[tuple[Callable[..., object], tuple[object, ...]]]:
        """Return calls that write ``x @ w`` to ``out``, or add it; ``term`` is scratch like it."""

    def ready(self) -> AbstractContextManager[None]:
        """Return what such calls are run in."""


class _Multiplication:
    """One multiplication by a weight, bound to its arrays.

    Parameters
    ----------
    product : Product
    chip : ChipBinder
    tensor : PackedTensor
        The weight.
    x, out : ndarray
    blocks : sequence of slice
        Rows that are multiplied together, always the same ones, so that the bits of a row do not
        depend on what else is multiplied.
    """

    def __init__(
        self,
        product: Product,
        chip: "ChipBinder",
        tensor: PackedTensor,
        x: F32,
        out: F32,
        blocks: Sequence[slice],
    ) -> None:
        self._product = product
        n_rows, width = tensor.shape
        step = piece_rows(tensor.shape)
        largest = max(block.stop - block.start for block in blocks)
        term = chip.workspace.values("term of a product", largest, width)
        self._pieces = []
        at = 0
        for top in range(0, n_rows, step):
            height = min(step, n_rows - top)
            codec = chip.codec(tensor.dtype, (height, width))
            piece = chip.workspace.values("piece of a weight", height, width)
            packed = tensor.data[at : at + codec.n_bytes]
            at += codec.n_bytes
            calls = [
                call
                for block in blocks
                for call in product.bind(
                    x[block, top : top + height],
                    piece,
                    out[block],
                    term[: block.stop - block.start],
                    adds=top > 0,
                )
            ]
            self._pieces.append((codec.unpack, packed, piece, calls))

    def __call__(self) -> None:
        """Multiply."""
        with self._product.ready():
            for unpack, packed, piece, calls in self._pieces:
                unpack(packed, piece)
                for call, arguments in calls:
                    call(*arguments)


class WeightStream:
    """The large weights of one chip.

    Parameters
    ----------
    tensors : mapping of WeightId to PackedTensor
        Weights of the chip that may be streamed.
    product : Product
    least : int
        Values from which on a weight is streamed.
    """

    def __init__(
        self, tensors: Mapping[WeightId, PackedTensor], product: Product, least: int
    ) -> None:
        self._product = product
        self._tensors = {
            weight: tensor
            for weight, tensor in tensors.items()
            if tensor.n_values >= least and tensor.dtype is not FLOAT32
        }

    def has(self, weight: WeightId) -> bool:
        """Return whether a weight is streamed."""
        return weight in self._tensors

    def shape(self, weight: WeightId) -> tuple[int, ...]:
        """Return the shape of a weight, (in, out)."""
        return self._tensors[weight].shape

    def piece_bytes(self) -> int:
        """Return the bytes of the largest unpacked piece."""
        shapes = [tensor.shape for tensor in self._tensors.values()]
        return max((4 * piece_rows(shape) * shape[1] for shape in shapes), default=0)

    def multiply(
        self,
        chip: "ChipBinder",
        weight: WeightId,
        x: F32,
        out: F32,
        blocks: Sequence[slice],
    ) -> None:
        """Add a product to the program of a chip.

        Parameters
        ----------
        chip : ChipBinder
        weight : WeightId
        x : ndarray of shape (M, K)
            Values of bfloat16.
        out : ndarray of shape (M, N)
        blocks : sequence of slice
            Rows that are multiplied together.
        """
        tensor = self._tensors[weight]
        chip.call(_Multiplication(self._product, chip, tensor, x, out, blocks))
