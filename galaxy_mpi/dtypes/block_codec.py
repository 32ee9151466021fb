"""Blocks of 16 values with a shared exponent: rounding, encoding, decoding, in numpy.

Arrays of shape (rows, runs, 16) only; where blocks come from and where their bytes lie is
`galaxy_mpi.dtypes.block_tiles`'s and `galaxy_mpi.dtypes.block_rows`'s.

Rounding is the vendor's: the 24-bit significand is shifted right to the block's exponent, which
*loses* the bits shifted out, and then rounded to nearest, ties to even, on the bits that are
left; the result saturates at ``2**W - 1``.

References
----------
.. [1] tt-metal, tt_metal/impl/data_format/blockfloat_common.cpp.
"""

import numpy as np
from numpy.typing import NDArray

from galaxy_mpi.arrays import F32
from galaxy_mpi.dtypes.tile import FACE

__all__ = ["BlockScratch", "BlockTables", "Blocks"]

_TABLE_BYTES = 8192
"""Up to here one look-up of 8-bit data beats five passes of arithmetic; above it takes twice as
long (numpy widens the indices to 64 bits)."""

_FAST_EXPONENTS = bytes([0, *range(24, 255)])
"""Block exponents for which ``2**(150 - E)`` is a float32 (or nothing is left to scale); blocks
with others, and with infinities and NaN, take the integer path."""


def _spread(powers: NDArray[np.int64]) -> F32:
    """Return ``2**powers`` of shape (256,) as a table (256, 16): one row is one block's factor.

    numpy multiplies whole arrays several times faster than it broadcasts over rows of 16.
    """
    factors = np.ldexp(np.float64(1), powers).astype(np.float32)
    return np.ascontiguousarray(np.broadcast_to(factors[:, None], (256, FACE)))


def _values_of_bytes(datum_bits: int) -> NDArray[np.generic]:
    """Return the signed magnitudes in each byte, shape (256,): one float32, or two as one item."""
    byte = np.arange(256)
    data = byte[:, None] if datum_bits == 8 else np.stack([byte & 15, byte >> 4], axis=1)
    sign = 1 << (datum_bits - 1)
    values = np.where(data & sign, -(data & (sign - 1)), data).astype(np.float32)
    return values.view(np.float32 if datum_bits == 8 else np.complex64)[:, 0]


class BlockTables:
    """The numbers of one format.

    Parameters
    ----------
    magnitude_bits : int
        7 or 3, the leading one included.
    """

    def __init__(self, magnitude_bits: int) -> None:
        self.magnitude_bits = magnitude_bits
        self.datum_bits = magnitude_bits + 1
        self.block_bytes = FACE * self.datum_bits // 8
        self.block_item: type[object] = np.complex128 if self.datum_bits == 8 else np.uint64
        """The data of one block as one array item, so that tiling is a copy of items."""
        exponent = np.arange(256)
        self.values_of_bytes = _values_of_bytes(self.datum_bits)
        self.units = _spread(exponent - 127 - (magnitude_bits - 1))
        self.significand_scale = _spread(150 - exponent.clip(24))
        self.significand_unit = _spread(exponent - 150)
        shift = 24 - magnitude_bits
        self.limit = np.float32((2**magnitude_bits - 1) << shift)
        self.rounder = np.float32(1.5 * 2.0 ** (23 + shift))
        """Added, it leaves no bit below the last one that is kept: float32 rounds for us, and
        the low byte of the sum is the rounded number in two's complement."""


class BlockScratch:
    """What up to ``n_blocks`` blocks need to be worked on; codecs of one thread may share it.

    Parameters
    ----------
    tables : BlockTables
    n_blocks : int
    n_tile_blocks : int
        Blocks of the tiles that hold them, padding included.
    """

    def __init__(self, tables: BlockTables, n_blocks: int, n_tile_blocks: int = 0) -> None:
        self.tables = tables
        self.halves = np.empty(n_blocks * FACE, np.uint16)
        self.largest = np.empty(n_blocks, np.uint16)
        self.exponents = np.empty(n_blocks + 1, np.uint8)
        self.factors = np.empty((n_blocks, FACE), np.float32)
        self.quanta = np.empty((n_blocks, FACE), np.float32)
        self.wide = np.empty((n_blocks, FACE), np.float32)
        self.small = np.empty((n_blocks, FACE), np.int8)
        self.signs = np.empty((n_blocks, FACE), np.int8)
        self.items = np.empty(n_blocks + 1, tables.block_item)
        self.tile_exponents = np.empty(n_tile_blocks, np.uint8)
        self.tile_items = np.empty(n_tile_blocks, tables.block_item)


class Blocks:
    """A patch of ``rows`` rows of ``runs`` blocks, with its scratch.

    ``exponents`` (rows * runs,) and ``data`` (rows * runs, block_bytes) are what `encode` writes
    and `decode` reads; ``wide`` (rows, runs, 16) is free for values. All are views of the
    scratch.
    """

    def __init__(self, scratch: BlockScratch, rows: int, runs: int) -> None:
        n, grid = rows * runs, (rows, runs, FACE)
        self.tables = tables = scratch.tables
        self.exponents = scratch.exponents[:n]
        self.items = scratch.items[:n]
        self.data = self.items.view(np.uint8).reshape(n, tables.block_bytes)
        self.wide = scratch.wide[:n].reshape(grid)
        self._halves = scratch.halves[: n * FACE].reshape(FACE, rows, runs)
        self._halves_flat = self._halves.reshape(FACE, n)
        self._largest = scratch.largest[:n]
        self._factors_flat = scratch.factors[:n]
        self._factors = self._factors_flat.reshape(grid)
        self._quanta = scratch.quanta[:n].reshape(grid)
        self._numbers = self._quanta.view(np.int32)
        self._small = scratch.small[:n].reshape(grid)
        self._signs = scratch.signs[:n].reshape(grid)
        self._bytes = self._small.view(np.uint8).reshape(n, FACE)
        self._pairs = self._small.view(np.uint16).reshape(n, FACE // 2)
        self._pairs_high = self._signs.view(np.uint16).reshape(n, FACE // 2)

    def quantise(self, values: F32) -> None:
        """Take ``values`` (rows, runs, 16) in: exponents, and magnitudes for what comes next.

        The maximum of each block is taken over the rows of the transposed upper halves, which
        order as their float32 do and are half the bytes.
        """
        tables, quanta = self.tables, self._quanta
        np.bitwise_and(
            values.view(np.uint16)[..., 1::2].transpose(2, 0, 1), np.uint16(0x7FFF), self._halves
        )
        np.maximum.reduce(self._halves_flat, axis=0, out=self._largest)
        np.right_shift(self._largest, 7, self.exponents, casting="unsafe")
        if self.exponents.tobytes().translate(None, _FAST_EXPONENTS):
            np.multiply(
                self._by_bits(values), tables.limit / (2**tables.magnitude_bits - 1), quanta
            )
        else:
            tables.significand_scale.take(self.exponents, 0, self._factors_flat, "clip")
            np.multiply(self._factors, values, quanta)  # the significand, shifted by E - e
            np.trunc(quanta, quanta)  # the bits shifted out are lost
            np.clip(quanta, -tables.limit, tables.limit, quanta)
        np.add(quanta, tables.rounder, quanta)

    def rounded(self, out: F32) -> None:
        """Write the rounded values of what was quantised to ``out`` (rows, runs, 16)."""
        tables, quanta = self.tables, self._quanta
        np.subtract(quanta, tables.rounder, quanta)  # never -0.0, which has no datum of its own
        tables.significand_unit.take(self.exponents, 0, self._factors_flat, "clip")
        np.multiply(quanta, self._factors, out)

    def encode(self) -> None:
        """Write the data of what was quantised to ``data``: sign and magnitude."""
        small, signs = self._small, self._signs
        np.copyto(small, self._numbers, casting="unsafe")  # keeps the low byte
        if self.tables.datum_bits == 8:
            np.bitwise_and(small, np.int8(-128), signs)
            np.abs(small, small)
            np.bitwise_or(small, signs, small)
            np.copyto(self.data, self._bytes)
            return
        np.right_shift(small, 4, signs)
        np.bitwise_and(signs, np.int8(8), signs)
        np.abs(small, small)
        np.bitwise_or(small, signs, small)
        np.right_shift(self._pairs, 4, self._pairs_high)
        np.bitwise_or(self._pairs, self._pairs_high, self._pairs)
        np.copyto(self.data, self._pairs, casting="unsafe")  # keeps the low byte

    def decode(self, out: F32 | None = None) -> F32:
        """Return the values of ``exponents`` and ``data``, in scratch if there is no ``out``."""
        tables, quanta = self.tables, self._quanta
        tables.units.take(self.exponents, 0, self._factors_flat, "clip")
        if tables.datum_bits == 4 or self.data.size <= _TABLE_BYTES:
            pairs = quanta.view(tables.values_of_bytes.dtype).reshape(self.data.shape)
            tables.values_of_bytes.take(self.data, None, pairs, "clip")
        else:
            small, signs = self._small, self._signs
            np.copyto(self._bytes, self.data)
            np.right_shift(small, 7, signs)  # 0 or -1
            np.bitwise_and(small, np.int8(0x7F), small)
            np.bitwise_xor(small, signs, small)
            np.subtract(small, signs, small)
            np.copyto(quanta, small)
        out = quanta if out is None else out
        np.multiply(quanta, self._factors, out)
        return out

    def _by_bits(self, values: F32) -> F32:
        """Return signed magnitudes by integers: any exponent, infinity and NaN included."""
        bits = values.view(np.uint32)
        own = (bits >> 23) & 0xFF
        significand = np.where(own > 0, (bits & 0x7FFFFF) | (1 << 23), 0).astype(np.uint32)
        significand >>= np.minimum(self.exponents.reshape(*own.shape[:2], 1) - own, 31)
        shift = 24 - self.tables.magnitude_bits
        quanta = significand >> shift
        rest = significand & ((1 << shift) - 1)
        half = 1 << (shift - 1)
        quanta += (rest > half) | ((rest == half) & (quanta & 1 == 1))
        magnitude = np.minimum(quanta, 2**self.tables.magnitude_bits - 1).astype(np.float32)
        signed: F32 = np.where(bits >> 31 == 1, -magnitude, magnitude)
        return signed
