"""bfloat8_b and bfloat4_b: 16 values share an 8-bit exponent.

A value is a sign bit and W magnitude bits (7 or 3) whose leading one is explicit; the largest of
the 16 sets the exponent E, and one unit is ``2**(E - 127 - (W - 1))``. Packed, a 32x32 tile is 64
exponent bytes followed by 1024 values of 8 or 4 bits (the low nibble first): 1088 or 576 bytes.

`galaxy_mpi.dtypes.block_codec` has the rounding; here is the order of the bytes.

References
----------
.. [1] tt-metal, tt_metal/impl/data_format/{blockfloat_common,bfloat8,bfloat4}.cpp.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from galaxy_mpi.arrays import F32, Bytes, Ints
from galaxy_mpi.dtypes.block_codec import BlockCodec
from galaxy_mpi.dtypes.named import Named
from galaxy_mpi.dtypes.tile import FACE, TILE, padded, run_order

__all__ = ["BlockFloat"]

_EXPONENTS_PER_TILE = TILE * TILE // FACE


class _Places(NamedTuple):
    """Positions in packed tiles, for runs in row-major order."""

    exponents: Ints
    """In bytes."""
    data: Ints
    """In items of one run's data."""
    fill_tiles: bool
    """Whether there is no padding."""


class BlockFloat(Named):
    """A block float with ``magnitude_bits`` bits a value beside its sign.

    Parameters
    ----------
    name : str
        The vendor's name, ``bfloat8_b`` or ``bfloat4_b``.
    magnitude_bits : int
        7 or 3, the leading one included.

    Examples
    --------
    >>> import numpy as np
    >>> bfp8 = BlockFloat("bfloat8_b", 7)
    >>> bfp8.round(np.array([[1.0, 0.51, 1 / 128, 3 / 256]], np.float32))
    array([[1.      , 0.515625, 0.      , 0.015625]], dtype=float32)
    >>> bfp8.packed_bytes((32, 2048))
    69632
    """

    def __init__(self, name: str, magnitude_bits: int) -> None:
        self.name = name
        self.magnitude_bits = magnitude_bits
        self.datum_bits = magnitude_bits + 1
        self.explicit_bits = self.datum_bits - 2  # without the sign and the first one bit
        self.tile_bytes = _EXPONENTS_PER_TILE + TILE * TILE * self.datum_bits // 8
        self._codec = BlockCodec(magnitude_bits)
        self._places_of: dict[tuple[int, int], _Places] = {}
        # Run = the data of one block as one array item, so that tiling is a copy of items.
        self._run: type[Any] = np.complex128 if self.datum_bits == 8 else np.uint64

    def round(self, values: F32) -> F32:
        """Return the values that survive packing.

        Parameters
        ----------
        values : ndarray of shape (..., C), float32
            Blocks of 16 run along the last dim, which is padded with zeros if ragged.

        Returns
        -------
        ndarray of the same shape, float32
            A new array.
        """
        matrix = _as_matrix(values)
        wide = _whole_runs(matrix)
        rounded = self._codec.round(_blocks(wide)).reshape(wide.shape)
        return np.ascontiguousarray(rounded[:, : matrix.shape[1]]).reshape(values.shape)

    def packed_bytes(self, shape: tuple[int, ...]) -> int:
        """Return how many bytes `pack` makes of an array of ``shape``."""
        rows, columns = math.prod(shape[:-1]), shape[-1]
        return padded(rows) // TILE * (padded(columns) // TILE) * self.tile_bytes

    def pack(self, values: F32) -> Bytes:
        """Round and pack to tiles.

        Parameters
        ----------
        values : ndarray of shape (..., C), float32
            Leading dims are flattened to rows; ragged edges are padded with zeros.

        Returns
        -------
        ndarray of shape (packed_bytes(values.shape),), uint8
            The tiles in row-major order, each 64 exponents and its data.
        """
        wide = _whole_runs(_as_matrix(values))
        exponents, data = self._codec.encode(_blocks(wide))
        places = self._places(len(wide), wide.shape[1] // FACE)
        n_bytes = self.packed_bytes(values.shape)
        # What is padding stays zero: a block of zeros is zeros, exponent and data.
        tiles = (np.empty if places.fill_tiles else np.zeros)(n_bytes, np.uint8)
        tiles[places.exponents] = exponents
        tiles.view(self._run)[places.data] = data.view(self._run)[:, 0]
        return tiles

    def unpack(
        self,
        packed: Bytes,
        shape: tuple[int, ...],
        out: F32 | None = None,
    ) -> F32:
        """Return the values of packed tiles.

        Parameters
        ----------
        packed : ndarray of shape (packed_bytes(shape),), uint8
            What `pack` returned.
        shape : tuple of int
            Shape of the values; padding is dropped.
        out : ndarray of ``shape``, float32, contiguous, optional
            Overwritten and returned.

        Returns
        -------
        ndarray of ``shape``, float32
        """
        height, width = math.prod(shape[:-1]), shape[-1]
        n_runs = padded(width, FACE) // FACE
        places = self._places(height, n_runs)
        exponents = packed.take(places.exponents)
        data = (
            packed.view(self._run)
            .take(places.data)
            .view(np.uint8)
            .reshape(len(exponents), self._codec.block_bytes)
        )
        if out is None:
            out = np.empty(shape, np.float32)
        exact = width == n_runs * FACE
        values = out if exact else np.empty((height, n_runs * FACE), np.float32)
        self._codec.decode(exponents, data, values.reshape(-1, FACE))
        if not exact:
            out.reshape(height, width)[...] = values[:, :width]
        return out

    def _places(self, height: int, n_runs: int) -> "_Places":
        """Return where the runs of a matrix lie in its packed tiles; padding is left out."""
        found = self._places_of.get((height, n_runs))
        if found is None:
            rows, columns = padded(height), padded(n_runs * FACE)
            tile, run = (
                order.reshape(rows, columns // FACE)[:height, :n_runs].reshape(-1)
                for order in run_order(rows, columns)
            )
            item_bytes = self._codec.block_bytes
            items, header = self.tile_bytes // item_bytes, _EXPONENTS_PER_TILE // item_bytes
            found = _Places(
                tile * self.tile_bytes + run,
                tile * items + header + run,
                (rows, columns) == (height, n_runs * FACE),
            )
            self._places_of[height, n_runs] = found
        return found

    def row_bytes(self, width: int) -> int:
        """Return the bytes of one row of ``width`` values packed by itself."""
        return padded(width, FACE) // FACE * (1 + self._codec.block_bytes)

    def pack_rows(self, values: F32) -> Bytes:
        """Round and pack each row by itself: shape (..., W) to (..., row_bytes(W)).

        A row is its exponents followed by its data. A chip keeps rows of a cache in tiles; the
        bytes are the same, their order is not.
        """
        wide = _whole_runs(_as_matrix(values))
        rows, n_blocks = len(wide), wide.shape[1] // FACE
        exponents, data = self._codec.encode(_blocks(wide))
        packed = np.empty((rows, self.row_bytes(values.shape[-1])), np.uint8)
        packed[:, :n_blocks] = exponents.reshape(rows, n_blocks)
        packed[:, n_blocks:] = data.reshape(rows, packed.shape[1] - n_blocks)
        return packed.reshape(*values.shape[:-1], packed.shape[1])

    def unpack_rows(self, packed: Bytes, width: int) -> F32:
        """Undo `pack_rows`."""
        n_blocks = padded(width, FACE) // FACE
        out = np.empty((*packed.shape[:-1], n_blocks * FACE), np.float32)
        exponents = packed[..., :n_blocks].reshape(-1)
        data = packed[..., n_blocks:].reshape(-1, self._codec.block_bytes)
        self._codec.decode(exponents, data, out.reshape(-1, FACE))
        return out[..., :width]


def _as_matrix(values: F32) -> F32:
    """Flatten the leading dims to rows."""
    return values.reshape(math.prod(values.shape[:-1]), values.shape[-1])


def _blocks(values: F32) -> F32:
    """Return the runs of 16 values, (n, 16)."""
    return np.ascontiguousarray(values, np.float32).reshape(-1, FACE)


def _whole_runs(matrix: F32) -> F32:
    """Return ``matrix`` with zeros behind each row up to whole runs; itself if there are none."""
    rows, columns = matrix.shape
    if columns % FACE == 0:
        return matrix
    out = np.zeros((rows, padded(columns, FACE)), np.float32)
    out[:, :columns] = matrix
    return out
