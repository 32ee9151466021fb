"""How the factors of a product of matrices lie in memory: in float32, or in bfloat16.

The first factor is rows of activations, the second a weight, unpacked piece by piece. Instructions
that multiply bfloat16 take two values of each at once, one below the other in the weight, so two
rows of a weight share a row of words there (see `Codec.unpack_pairs`).
"""

from collections.abc import Callable
from typing import Protocol

import numpy as np

from galaxy_mpi.arrays import F32, Array, Bytes
from galaxy_mpi.dtypes.codec import Codec
from galaxy_mpi.dtypes.matrix import as_pairs, write_pairs

__all__ = ["Bfloat16Factors", "Factors", "Float32Factors"]

_ROWS, _WEIGHT = "rows of a product", "piece of a weight"


class Scratch(Protocol):
    """Named arrays, overwritten by the next use of the name."""

    def bytes(self, name: str, *shape: int) -> Bytes:
        """Return bytes."""

    def values(self, name: str, *shape: int) -> F32:
        """Return float32."""


class Factors(Protocol):
    """The memory layout of a product's factors; their values are those of bfloat16."""

    value_bytes: int
    """Bytes of one unpacked value of a weight."""

    def rows(self, scratch: Scratch, n_rows: int, depth: int) -> Array:
        """Return scratch for rows of the first factor."""

    def read(self, x: F32) -> Array:
        """Return a matrix as it is copied to `rows`; a view."""

    def weight(self, scratch: Scratch, height: int, width: int) -> Array:
        """Return scratch for a piece of a weight, (height, width)."""

    def unpack(self, codec: Codec) -> Callable[[Bytes, Array], None]:
        """Return what unpacks into `weight`."""

    def words(self, values: F32) -> Array:
        """Return an even number of rows of a weight as they lie in `weight`."""


class Float32Factors:
    """Both in float32, row by row."""

    value_bytes = 4

    def rows(self, scratch: Scratch, n_rows: int, depth: int) -> Array:
        """Return float32 of shape (n_rows, depth)."""
        return scratch.values(_ROWS, n_rows, depth)

    def read(self, x: F32) -> Array:
        """Return the matrix itself."""
        return x

    def weight(self, scratch: Scratch, height: int, width: int) -> Array:
        """Return float32 of shape (height, width)."""
        return scratch.values(_WEIGHT, height, width)

    def unpack(self, codec: Codec) -> Callable[[Bytes, Array], None]:
        """Return the codec's method."""
        return codec.unpack

    def words(self, values: F32) -> Array:
        """Return the rows themselves."""
        return values


class Bfloat16Factors:
    """Both in bfloat16; of a weight, two rows share a row of words."""

    value_bytes = 2

    def rows(self, scratch: Scratch, n_rows: int, depth: int) -> Array:
        """Return uint16 of shape (n_rows, depth)."""
        return scratch.bytes(_ROWS, n_rows, 2 * depth).view(np.uint16)

    def read(self, x: F32) -> Array:
        """Return the upper halves; the lower ones are zero."""
        return x.view(np.uint16)[:, 1::2]

    def weight(self, scratch: Scratch, height: int, width: int) -> Array:
        """Return uint32 of shape (ceil(height / 2), width)."""
        return scratch.bytes(_WEIGHT, -(-height // 2), 4 * width).view(np.uint32)

    def unpack(self, codec: Codec) -> Callable[[Bytes, Array], None]:
        """Return the codec's method."""
        return codec.unpack_pairs

    def words(self, values: F32) -> Array:
        """Return two rows in one."""
        rows, width = values.shape
        words = np.empty((rows // 2, width), np.uint32)
        write_pairs(self.read(values), as_pairs(words, rows, width))
        return words
