"""Large weights in pieces: each is unpacked to bfloat16 and multiplied while it is in the cache.

An unpacked weight of a large model does not fit in a cache: written as float32 and read again it
costs more than its product, and every rank needs room for it. A piece of some rows needs neither::

    packed weight (K, N)       piece 0 | piece 1 | ...          read once, packed
    x (M, K) in bfloat16       out  = x[:, 0] @ piece 0
                               out += x[:, 1] @ piece 1 ...     in float32

There is no thread that unpacks ahead: with as many ranks as here on a core, another rank always has
something to do.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from galaxy_mpi.arrays import F32
from galaxy_mpi.dtypes import BF16, FLOAT32, TILE, PackedTensor
from galaxy_mpi.prefetch.weights import WeightId

__all__ = ["PIECE_VALUES", "WeightStream", "piece_rows"]

PIECE_VALUES = 2**19
"""Values of a piece: 1 MiB of bfloat16, a core's L2 cache. Half and twice as many take as long."""

Halves = NDArray[np.uint16]


def piece_rows(shape: tuple[int, ...]) -> int:
    """Return the rows of a piece of a weight: whole rows of tiles.

    Examples
    --------
    >>> piece_rows((2048, 3584)), piece_rows((64, 128_256)), piece_rows((64, 3584))
    (128, 32, 64)
    """
    rows, width = shape
    return min(rows, max(TILE, PIECE_VALUES // width // TILE * TILE))


class _Product:
    """One multiplication by a weight, bound to its arrays."""

    def __init__(
        self, stream: "WeightStream", chip: Any, tensor: PackedTensor, x: Halves, out: F32
    ) -> None:
        self._product, self._level, self._out = stream.product, stream.level, out
        self._x, self._workspace = x, chip.workspace
        n_rows, width = tensor.shape
        step = piece_rows(tensor.shape)
        self._pieces = []
        at = 0
        for top in range(0, n_rows, step):
            shape = min(step, n_rows - top), width
            codec = chip.codec(tensor.dtype, shape)
            piece = chip.workspace.bytes("piece of a weight", shape[0], 2 * width).view(np.uint16)
            packed = tensor.data[at : at + codec.n_bytes]
            inner = slice(top, top + shape[0])
            self._pieces.append((codec.unpack_bf16, packed, piece, inner))
            at += codec.n_bytes

    def stream(self) -> None:
        """Multiply all rows."""
        self._multiply(self._x, self._out)

    def stream_some(self, rows: Callable[[], NDArray[np.int64]]) -> None:
        """Multiply some rows; the others of the result are zeros."""
        some, out = rows(), self._out
        if len(some) == len(out):
            self.stream()
            return
        x = np.take(self._x, some, axis=0)
        product = self._workspace.values("some rows of a product", len(some), out.shape[1])
        self._multiply(x, product)
        out.fill(0)
        out[some] = product

    def _multiply(self, x: Halves, out: F32) -> None:
        product, level, adds = self._product, self._level, False
        for unpack, packed, piece, inner in self._pieces:
            unpack(packed, piece)
            product(x[:, inner], piece, out, adds, level)
            adds = True


class WeightStream:
    """The large weights of one chip.

    Parameters
    ----------
    tensors : mapping of WeightId to PackedTensor
        Weights of the chip that may be streamed.
    product : callable
        ``(x, w, out, adds, level)``: `galaxy_mpi.kernels.BF16Product`.
    level : int
        Which instructions it uses.
    least : int
        Values from which on a weight is streamed.
    """

    def __init__(
        self, tensors: Mapping[WeightId, PackedTensor], product: Any, level: int, least: int
    ) -> None:
        self.product, self.level = product, level
        self._tensors = {
            weight: tensor
            for weight, tensor in tensors.items()
            if tensor.n_values >= least and tensor.shape[0] % 2 == 0 and tensor.dtype is not FLOAT32
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
        return max((2 * piece_rows(shape) * shape[1] for shape in shapes), default=0)

    def multiply(
        self,
        chip: Any,
        weight: WeightId,
        x: F32,
        out: F32,
        rows: Callable[[], NDArray[np.int64]] | None = None,
    ) -> None:
        """Add a product to the program of a chip.

        Parameters
        ----------
        chip : ChipBinder
        weight : WeightId
        x : ndarray of shape (M, K)
            Values of bfloat16.
        out : ndarray of shape (M, N)
        rows : callable, optional
            Returns, when the program runs, which rows are read later; by default all are.
        """
        halves = chip.bytes(x.shape[0], 2 * x.shape[1])
        chip.call(chip.codec(BF16, x.shape).pack, x, halves.reshape(-1))
        tensor = self._tensors[weight]
        product = _Product(self, chip, tensor, halves.view(np.uint16), out)
        if rows is None:
            chip.call(product.stream)
        else:
            chip.call(product.stream_some, rows)
