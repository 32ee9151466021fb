"""What a format does to arrays of one shape: the interface that both codecs have.

A codec is bound to a shape once (``dtype.codec(shape)``) and then called with arrays of that
shape. It owns whatever it works in, so a call allocates nothing; for the same reason **a codec
belongs to one thread**, of which two bind a codec each. (Compiled codecs own nothing, and let
other threads run during calls with more than 8,192 values.)

Values are float32. Those of a row lie side by side, and rows are equally far apart, any distance:
arrays of other strides are refused, as other shapes are. Packed bytes are uint8, contiguous in
their last dim, and need no alignment. Nothing that is written may overlap what is read, but
`round` may write to the very array that it reads.
"""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from galaxy_mpi.arrays import F32, Bytes

__all__ = ["Codec", "RowCodec"]


class Codec(Protocol):
    """Values of one shape as the bytes that a chip holds or sends."""

    @property
    def n_bytes(self) -> int:
        """Packed bytes of the bound shape."""

    def pack(self, values: F32, out: Bytes, /) -> None:
        """Round and pack ``values`` into ``out`` of shape (n_bytes,)."""

    def unpack(self, packed: Bytes, out: F32, /) -> None:
        """Write the values of ``packed`` to ``out``."""

    def unpack_pairs(self, packed: Bytes, out: NDArray[np.uint32], /) -> None:
        """Unpack to bfloat16, two rows in one: exact for all formats but float32.

        This is how instructions that multiply bfloat16 read the second factor of a product
        ("VNNI" in oneDNN): values whose products are added together are adjacent.

        Parameters
        ----------
        packed : ndarray of shape (n_bytes,), uint8
        out : ndarray of shape (ceil(rows / 2), width), uint32
            A value of an even row in the lower half of a word, that of the next row, or zero, in
            the upper half.
        """

    def round(self, values: F32, out: F32, /) -> None:
        """Write the nearest values of the format to ``out``, which may be ``values``."""

    def add_terms(self, blocks: Bytes, out: F32, /) -> None:
        """Unpack the terms of a sum and add them in order, without rounding the sum.

        Parameters
        ----------
        blocks : ndarray of shape (members, at least n_bytes), uint8
            One packed term a row, any distance apart, such as rows of a shared table.
        out : ndarray of the bound shape, float32
            ``((t0 + t1) + t2) + ...``.
        """

    def pack_sum(self, blocks: Bytes, out: Bytes, values: F32 | None = None, /) -> None:
        """Add terms as `add_terms` does, then round and pack the sum.

        Parameters
        ----------
        blocks : ndarray of shape (members, at least n_bytes), uint8
        out : ndarray of shape (n_bytes,), uint8
            May not be one of ``blocks``.
        values : ndarray of the bound shape, float32, optional
            Gets the rounded sum.
        """


class RowCodec(Protocol):
    """Rows of one width, each packed by itself: its exponents, then its data."""

    @property
    def row_bytes(self) -> int:
        """Packed bytes of one row."""

    def pack(self, values: F32, out: Bytes, /) -> None:
        """Round and pack ``values`` (rows, width) into ``out`` (rows, row_bytes)."""

    def unpack(self, packed: Bytes, out: F32, /) -> None:
        """Write the values of ``packed`` (rows, row_bytes) to ``out`` (rows, width)."""
