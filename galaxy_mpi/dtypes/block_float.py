"""bfloat8_b and bfloat4_b: 16 values share an 8-bit exponent.

A value is a sign bit and W magnitude bits (7 or 3) whose leading one is explicit; the largest of
the 16 sets the exponent E, and one unit is ``2**(E - 127 - (W - 1))``. Packed, a 32x32 tile is 64
exponent bytes followed by 1024 values of 8 or 4 bits (the low nibble first): 1088 or 576 bytes.

Rounding is the vendor's: the 24-bit significand is shifted right to the block's exponent, which
*loses* the bits shifted out, and then rounded to nearest, ties to even, on the bits that are
left; the result saturates at ``2**W - 1``.

References
----------
.. [1] tt-metal, tt_metal/impl/data_format/{blockfloat_common,bfloat8,bfloat4}.cpp.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from galaxy_mpi.arrays import Ints
from galaxy_mpi.dtypes.tile import FACE, TILE, padded, run_order

__all__ = ["BlockFloat"]

_EXPONENTS_PER_TILE = TILE * TILE // FACE
_CHUNK_BLOCKS = 2048
"""Blocks handled at once: 128 KiB of float32, so that all passes stay in the L2 cache."""

_TABLE_BYTES = 8192
"""Up to here one look-up of 8-bit data beats five passes of arithmetic; above it takes twice as
long (numpy widens the indices to 64 bits)."""

_FAST_EXPONENTS = bytes([0, *range(24, 255)])
"""Block exponents for which ``2**(150 - E)`` is a float32 (or nothing is left to scale); blocks
with others, and with infinities and NaN, take the integer path."""


class _Places(NamedTuple):
    """Positions in packed tiles, for runs in row-major order."""

    exponents: Ints
    """In bytes."""
    data: Ints
    """In items of one run's data."""


def _spread(powers: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return ``2**powers`` of shape (256,) as a table (256, 16): one row is one block's factor."""
    factors = np.ldexp(np.float64(1), powers).astype(np.float32)
    return np.ascontiguousarray(np.broadcast_to(factors[:, None], (256, FACE)))


def _values_of_bytes(datum_bits: int) -> NDArray[Any]:
    """Return the signed magnitudes in each byte, shape (256,): one float32, or two as one item."""
    byte = np.arange(256)
    data = byte[:, None] if datum_bits == 8 else np.stack([byte & 15, byte >> 4], axis=1)
    sign = 1 << (datum_bits - 1)
    values = np.where(data & sign, -(data & (sign - 1)), data).astype(np.float32)
    return values.view(np.float32 if datum_bits == 8 else np.complex64)[:, 0]


_SIGNIFICAND_SCALE = _spread(150 - np.arange(256).clip(24))


class BlockFloat:
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
        self.tile_bytes = _EXPONENTS_PER_TILE + TILE * TILE * self.datum_bits // 8
        self._places_of: dict[tuple[int, int], _Places] = {}
        self._block_bytes = FACE * self.datum_bits // 8
        self._values = _values_of_bytes(self.datum_bits)
        self._limit = np.float32(2**magnitude_bits - 1)
        self._to_unit = np.float32(2.0 ** -(24 - magnitude_bits))
        # Run = the data of one block as one array item, so that tiling is a copy of items.
        self._run: type[Any] = np.complex128 if self.datum_bits == 8 else np.uint64
        self._units = _spread(np.arange(256) - 127 - (magnitude_bits - 1))

    def round(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
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
        columns = values.shape[-1]
        if columns % FACE:
            wide = _pad_columns(
                values.reshape(math.prod(values.shape[:-1]), columns), padded(columns, FACE)
            )
            narrow = self.round(wide)[:, :columns]
            return np.ascontiguousarray(narrow).reshape(values.shape)
        blocks = np.ascontiguousarray(values, np.float32).reshape(-1, FACE)
        out = np.empty(blocks.shape, np.float32)
        for start in range(0, len(blocks), _CHUNK_BLOCKS):
            part = slice(start, start + _CHUNK_BLOCKS)
            quanta, exponents = self._quantise(blocks[part])
            quanta += np.float32(0)  # -0.0 has no datum of its own
            np.multiply(quanta, self._units.take(exponents, axis=0), out=out[part])
        return out.reshape(values.shape)

    def packed_bytes(self, shape: tuple[int, ...]) -> int:
        """Return how many bytes `pack` makes of an array of ``shape``."""
        rows, columns = math.prod(shape[:-1]), shape[-1]
        return padded(rows) // TILE * (padded(columns) // TILE) * self.tile_bytes

    def pack(self, values: NDArray[np.float32]) -> NDArray[np.uint8]:
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
        matrix = values.reshape(math.prod(values.shape[:-1]), values.shape[-1])
        rows, columns = padded(matrix.shape[0]), padded(matrix.shape[1])
        if matrix.shape != (rows, columns):
            matrix = _pad_columns(matrix, columns, rows)
        exponents, data = self._pack_blocks(matrix)
        places = self._places(rows, columns)
        tiles = np.empty(rows * columns // TILE**2 * self.tile_bytes, np.uint8)
        tiles[places.exponents] = exponents
        tiles.view(self._run)[places.data] = data.view(self._run)[:, 0]
        return tiles

    def unpack(
        self,
        packed: NDArray[np.uint8],
        shape: tuple[int, ...],
        out: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32]:
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
        rows, columns = padded(height), padded(width)
        places = self._places(rows, columns)
        exponents = packed.take(places.exponents)
        data = (
            packed.view(self._run)
            .take(places.data)
            .view(np.uint8)
            .reshape(len(exponents), self._block_bytes)
        )
        if out is None:
            out = np.empty(shape, np.float32)
        exact = (height, width) == (rows, columns)
        values = out if exact else np.empty((rows, columns), np.float32)
        self._unpack_blocks(exponents, data, values.reshape(-1, FACE))
        if not exact:
            out.reshape(height, width)[...] = values[:height, :width]
        return out

    def _places(self, rows: int, columns: int) -> "_Places":
        """Return where the runs of a matrix lie in its packed tiles."""
        found = self._places_of.get((rows, columns))
        if found is None:
            tile, run = run_order(rows, columns)
            item_bytes = self._block_bytes
            items, header = self.tile_bytes // item_bytes, _EXPONENTS_PER_TILE // item_bytes
            found = _Places(tile * self.tile_bytes + run, tile * items + header + run)
            self._places_of[rows, columns] = found
        return found

    def row_bytes(self, width: int) -> int:
        """Return the bytes of one row of ``width`` values packed by itself."""
        return padded(width, FACE) // FACE * (1 + self._block_bytes)

    def pack_rows(self, values: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Round and pack each row by itself: shape (..., W) to (..., row_bytes(W)).

        A row is its exponents followed by its data. A chip keeps rows of a cache in tiles; the
        bytes are the same, their order is not.
        """
        rows, width = math.prod(values.shape[:-1]), values.shape[-1]
        matrix = values.reshape(rows, width)
        if width % FACE:
            matrix = _pad_columns(matrix, padded(width, FACE))
        exponents, data = self._pack_blocks(matrix)
        n_blocks = matrix.shape[1] // FACE
        packed = np.empty((rows, self.row_bytes(width)), np.uint8)
        packed[:, :n_blocks] = exponents.reshape(rows, n_blocks)
        packed[:, n_blocks:] = data.reshape(rows, packed.shape[1] - n_blocks)
        return packed.reshape(*values.shape[:-1], packed.shape[1])

    def unpack_rows(self, packed: NDArray[np.uint8], width: int) -> NDArray[np.float32]:
        """Undo `pack_rows`."""
        n_blocks = padded(width, FACE) // FACE
        out = np.empty((*packed.shape[:-1], n_blocks * FACE), np.float32)
        exponents = packed[..., :n_blocks].reshape(-1)
        data = packed[..., n_blocks:].reshape(-1, self._block_bytes)
        self._unpack_blocks(exponents, data, out.reshape(-1, FACE))
        return out[..., :width]

    def _pack_blocks(
        self, values: NDArray[np.float32]
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Return exponents (n,) and data (n, 16 or 8) of the n blocks of ``values``."""
        blocks = np.ascontiguousarray(values, np.float32).reshape(-1, FACE)
        exponents = np.empty(len(blocks), np.uint8)
        data = np.empty((len(blocks), self._block_bytes), np.uint8)
        for start in range(0, len(blocks), _CHUNK_BLOCKS):
            part = slice(start, start + _CHUNK_BLOCKS)
            quanta, exponents[part] = self._quantise(blocks[part])
            data[part] = self._to_data(quanta.astype(np.int8))
        return exponents, data

    def _unpack_blocks(
        self, exponents: NDArray[np.uint8], data: NDArray[np.uint8], out: NDArray[np.float32]
    ) -> None:
        """Undo `_pack_blocks`, into ``out`` of shape (n, 16)."""
        for start in range(0, len(out), _CHUNK_BLOCKS):
            part = slice(start, start + _CHUNK_BLOCKS)
            units = self._units.take(exponents[part], axis=0)
            np.multiply(self._decode(data[part]), units, out=out[part])

    def _quantise(
        self, blocks: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """Return signed magnitudes (n, 16) as float32 and exponents (n,).

        Every factor is spread to all 16 values of its block first: numpy multiplies whole arrays
        ten times faster than it broadcasts over rows of 16. For the same reason the maximum of
        each block is taken over the rows of the transposed exponents.
        """
        largest = np.maximum.reduce(np.ascontiguousarray(np.abs(blocks).T), axis=0)
        exponents = (largest.view(np.uint32) >> 23).astype(np.uint8)
        if exponents.tobytes().translate(None, _FAST_EXPONENTS):
            return self._quantise_by_bits(blocks, exponents), exponents
        quanta = _SIGNIFICAND_SCALE.take(exponents, axis=0)
        quanta *= blocks  # * 2**(150 - E): the significand, shifted by E - e
        np.trunc(quanta, out=quanta)  # the bits shifted out are lost
        quanta *= self._to_unit
        np.rint(quanta, out=quanta)
        np.minimum(quanta, self._limit, out=quanta)
        np.maximum(quanta, -self._limit, out=quanta)
        return quanta, exponents

    def _quantise_by_bits(
        self, blocks: NDArray[np.float32], exponents: NDArray[np.uint8]
    ) -> NDArray[np.float32]:
        """Return the same as `_quantise` in integers: any exponent, infinity and NaN included."""
        bits = blocks.view(np.uint32)
        own = (bits >> 23) & 0xFF
        significand = np.where(own > 0, (bits & 0x7FFFFF) | (1 << 23), 0).astype(np.uint32)
        significand >>= np.minimum(exponents[:, None] - own, 31)
        shift = 24 - self.magnitude_bits
        quanta = significand >> shift
        rest = significand & ((1 << shift) - 1)
        half = 1 << (shift - 1)
        quanta += (rest > half) | ((rest == half) & (quanta & 1 == 1))
        magnitude = np.minimum(quanta.astype(np.float32), self._limit)
        return np.where(bits >> 31 == 1, -magnitude, magnitude)

    def _to_data(self, quanta: NDArray[np.int8]) -> NDArray[np.uint8]:
        """Signed integers to sign and magnitude, two to a byte in bfp4."""
        if self.datum_bits == 8:
            data = np.abs(quanta).view(np.uint8)
            data |= quanta.view(np.uint8) & 0x80
            return data
        nibbles = np.abs(quanta).view(np.uint8)
        nibbles |= (quanta.view(np.uint8) >> 4) & 0x8
        return (nibbles[:, 1::2] << np.uint8(4)) | nibbles[:, 0::2]

    def _decode(self, data: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the signed magnitudes in ``data``, (n, 16)."""
        if self.datum_bits == 4 or data.size <= _TABLE_BYTES:
            return self._values.take(data).view(np.float32)
        signed = data.view(np.int8)
        negative = signed >> 7  # 0 or -1
        magnitude = signed & 0x7F
        magnitude ^= negative
        magnitude -= negative
        return magnitude.astype(np.float32)


def _pad_columns(
    matrix: NDArray[np.float32], columns: int, rows: int | None = None
) -> NDArray[np.float32]:
    """Return ``matrix`` in the top left of zeros of shape (rows, columns)."""
    out = np.zeros((rows or matrix.shape[0], columns), np.float32)
    out[: matrix.shape[0], : matrix.shape[1]] = matrix
    return out
