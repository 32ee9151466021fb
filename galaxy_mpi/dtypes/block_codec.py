"""Blocks of 16 values with a shared exponent: rounding, encoding, decoding.

Arrays of shape (n, 16) only; where blocks come from and where their bytes lie is
`galaxy_mpi.dtypes.block_float`'s.

Rounding is the vendor's: the 24-bit significand is shifted right to the block's exponent, which
*loses* the bits shifted out, and then rounded to nearest, ties to even, on the bits that are
left; the result saturates at ``2**W - 1``.

References
----------
.. [1] tt-metal, tt_metal/impl/data_format/blockfloat_common.cpp.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from galaxy_mpi.arrays import F32, Bytes
from galaxy_mpi.dtypes.tile import FACE

__all__ = ["BlockCodec"]

_CHUNK_BLOCKS = 2048
"""Blocks handled at once: 128 KiB of float32, so that all passes stay in the L2 cache."""

_TABLE_BYTES = 8192
"""Up to here one look-up of 8-bit data beats five passes of arithmetic; above it takes twice as
long (numpy widens the indices to 64 bits)."""

_FAST_EXPONENTS = bytes([0, *range(24, 255)])
"""Block exponents for which ``2**(150 - E)`` is a float32 (or nothing is left to scale); blocks
with others, and with infinities and NaN, take the integer path."""


def _spread(powers: NDArray[np.int64]) -> F32:
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


class BlockCodec:
    """Rounds blocks and turns them to bytes.

    Parameters
    ----------
    magnitude_bits : int
        7 or 3, the leading one included.
    """

    def __init__(self, magnitude_bits: int) -> None:
        self.magnitude_bits = magnitude_bits
        self.datum_bits = magnitude_bits + 1
        self.block_bytes = FACE * self.datum_bits // 8
        self._values = _values_of_bytes(self.datum_bits)
        self._limit = np.float32(2**magnitude_bits - 1)
        self._to_unit = np.float32(2.0 ** -(24 - magnitude_bits))
        self._units = _spread(np.arange(256) - 127 - (magnitude_bits - 1))

    def round(self, blocks: F32) -> F32:
        """Return the values that survive encoding: a new array."""
        out = np.empty(blocks.shape, np.float32)
        for start in range(0, len(blocks), _CHUNK_BLOCKS):
            part = slice(start, start + _CHUNK_BLOCKS)
            quanta, exponents = self._quantise(blocks[part])
            quanta += np.float32(0)  # -0.0 has no datum of its own
            np.multiply(quanta, self._units.take(exponents, axis=0), out=out[part])
        return out

    def encode(self, blocks: F32) -> tuple[Bytes, Bytes]:
        """Return exponents (n,) and data (n, block_bytes)."""
        exponents = np.empty(len(blocks), np.uint8)
        data = np.empty((len(blocks), self.block_bytes), np.uint8)
        for start in range(0, len(blocks), _CHUNK_BLOCKS):
            part = slice(start, start + _CHUNK_BLOCKS)
            quanta, exponents[part] = self._quantise(blocks[part])
            data[part] = self._to_data(quanta.astype(np.int8))
        return exponents, data

    def decode(self, exponents: Bytes, data: Bytes, out: F32) -> None:
        """Undo `encode`, into ``out`` of shape (n, 16)."""
        for start in range(0, len(out), _CHUNK_BLOCKS):
            part = slice(start, start + _CHUNK_BLOCKS)
            units = self._units.take(exponents[part], axis=0)
            np.multiply(self._magnitudes(data[part]), units, out=out[part])

    def _quantise(self, blocks: F32) -> tuple[F32, Bytes]:
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

    def _quantise_by_bits(self, blocks: F32, exponents: Bytes) -> F32:
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

    def _to_data(self, quanta: NDArray[np.int8]) -> Bytes:
        """Signed integers to sign and magnitude, two to a byte in bfp4."""
        if self.datum_bits == 8:
            data = np.abs(quanta).view(np.uint8)
            data |= quanta.view(np.uint8) & 0x80
            return data
        nibbles = np.abs(quanta).view(np.uint8)
        nibbles |= (quanta.view(np.uint8) >> 4) & 0x8
        return (nibbles[:, 1::2] << np.uint8(4)) | nibbles[:, 0::2]

    def _magnitudes(self, data: Bytes) -> F32:
        """Return the signed magnitudes in ``data``, (n, 16)."""
        if self.datum_bits == 4 or data.size <= _TABLE_BYTES:
            return self._values.take(data).view(np.float32)
        signed = data.view(np.int8)
        negative = signed >> 7  # 0 or -1
        magnitude = signed & 0x7F
        magnitude ^= negative
        magnitude -= negative
        return magnitude.astype(np.float32)
