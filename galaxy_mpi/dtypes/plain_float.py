"""float32 and bfloat16: formats without a shared exponent.

Both travel and rest in row-major order; a chip would tile them, which moves bytes about but does
not change their number or value.
"""

import math

import numpy as np
from ml_dtypes import bfloat16
from numpy.typing import NDArray

from galaxy_mpi.dtypes.named import Named

__all__ = ["BFloat16", "Float32"]


class Float32(Named):
    """The reference format: rounds nothing."""

    name = "float32"
    tile_bytes = 4096
    explicit_bits = 23

    def round(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return ``values`` themselves."""
        return values

    def packed_bytes(self, shape: tuple[int, ...]) -> int:
        """Return how many bytes `pack` makes of an array of ``shape``."""
        return 4 * math.prod(shape)

    def pack(self, values: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Return the bytes of ``values``; a view where they are contiguous."""
        return np.ascontiguousarray(values).reshape(-1).view(np.uint8)

    def unpack(
        self,
        packed: NDArray[np.uint8],
        shape: tuple[int, ...],
        out: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32]:
        """Return a copy of the values in ``packed`` (written to ``out`` if given)."""
        if out is None:
            out = np.empty(shape, np.float32)
        out.reshape(-1).view(np.uint8)[...] = packed
        return out

    def row_bytes(self, width: int) -> int:
        """Return the bytes of a packed row of ``width`` values."""
        return 4 * width

    def pack_rows(self, values: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Pack each row by itself: shape (..., W) to (..., row_bytes(W))."""
        return np.ascontiguousarray(values, np.float32).view(np.uint8)

    def unpack_rows(self, packed: NDArray[np.uint8], width: int) -> NDArray[np.float32]:
        """Undo `pack_rows`."""
        return np.ascontiguousarray(packed).view(np.float32)[..., :width]


class BFloat16(Named):
    """bfloat16: the upper half of a float32, rounded to nearest, ties to even."""

    name = "bfloat16"
    tile_bytes = 2048
    explicit_bits = 7

    def round(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the nearest bfloat16 values, as float32.

        NaN stays NaN; what exceeds the largest finite value becomes infinite.
        """
        rounded: NDArray[np.float32] = values.astype(bfloat16).astype(np.float32)
        return rounded

    def packed_bytes(self, shape: tuple[int, ...]) -> int:
        """Return how many bytes `pack` makes of an array of ``shape``."""
        return 2 * math.prod(shape)

    def pack(self, values: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Round and return the bytes of ``values``, little-endian, row-major."""
        return values.astype(bfloat16, order="C").reshape(-1).view(np.uint8)

    def unpack(
        self,
        packed: NDArray[np.uint8],
        shape: tuple[int, ...],
        out: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32]:
        """Return the values in ``packed`` (written to ``out`` if given)."""
        values = packed.view(bfloat16).reshape(shape)
        if out is None:
            copy: NDArray[np.float32] = values.astype(np.float32)
            return copy
        out[...] = values
        return out

    def row_bytes(self, width: int) -> int:
        """Return the bytes of a packed row of ``width`` values."""
        return 2 * width

    def pack_rows(self, values: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Round and pack each row by itself: shape (..., W) to (..., row_bytes(W))."""
        return self.pack(values).reshape(*values.shape[:-1], self.row_bytes(values.shape[-1]))

    def unpack_rows(self, packed: NDArray[np.uint8], width: int) -> NDArray[np.float32]:
        """Undo `pack_rows`."""
        flat = np.ascontiguousarray(packed).reshape(-1)
        return self.unpack(flat, (*packed.shape[:-1], width))
