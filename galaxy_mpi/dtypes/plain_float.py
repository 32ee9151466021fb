"""float32 and bfloat16: formats without a shared exponent.

Both travel and rest in row-major order; a chip would tile them, which moves bytes about but does
not change their number or value.
"""

import math

import numpy as np

from galaxy_mpi.arrays import F32, Bytes
from galaxy_mpi.dtypes.bound import Bound
from galaxy_mpi.dtypes.codec import Codec, RowCodec
from galaxy_mpi.dtypes.matrix import matrix_shape
from galaxy_mpi.dtypes.plain_codec import PlainCodec, PlainRows

__all__ = ["BFloat16", "Float32"]


class Float32(Bound):
    """The reference format: rounds nothing."""

    name = "float32"
    tile_bytes = 4096
    explicit_bits = 23

    def codec(self, shape: tuple[int, ...]) -> Codec:
        """Return what copies arrays of ``shape``."""
        return PlainCodec(*matrix_shape(shape), np.float32)

    def row_codec(self, rows: int, width: int) -> RowCodec:
        """Return what copies rows."""
        return PlainRows(rows, width, np.float32)

    def round(self, values: F32) -> F32:
        """Return ``values`` themselves."""
        return values

    def pack(self, values: F32) -> Bytes:
        """Return the bytes of ``values``; a view where they are contiguous."""
        return np.ascontiguousarray(values).reshape(-1).view(np.uint8)

    def packed_bytes(self, shape: tuple[int, ...]) -> int:
        """Return how many bytes `pack` makes of an array of ``shape``."""
        return 4 * math.prod(shape)

    def row_bytes(self, width: int) -> int:
        """Return the bytes of a packed row of ``width`` values."""
        return 4 * width


class BFloat16(Bound):
    """bfloat16: the upper half of a float32, rounded to nearest, ties to even.

    NaN stays NaN; what exceeds the largest finite value becomes infinite.
    """

    name = "bfloat16"
    tile_bytes = 2048
    explicit_bits = 7

    def codec(self, shape: tuple[int, ...]) -> Codec:
        """Return what packs and unpacks arrays of ``shape``; it belongs to one thread."""
        return self.codecs.bfloat16(*matrix_shape(shape))

    def row_codec(self, rows: int, width: int) -> RowCodec:
        """Return what packs ``rows`` rows, each by itself; it belongs to one thread."""
        return self.codecs.bfloat16_rows(rows, width)

    def packed_bytes(self, shape: tuple[int, ...]) -> int:
        """Return how many bytes `pack` makes of an array of ``shape``."""
        return 2 * math.prod(shape)

    def row_bytes(self, width: int) -> int:
        """Return the bytes of a packed row of ``width`` values."""
        return 2 * width
