"""float32 and bfloat16 bound to a shape, in numpy.

Both travel and rest in row-major order; a chip would tile them, which moves bytes about but does
not change their number or value.
"""

from typing import Any

import numpy as np
from ml_dtypes import bfloat16
from numpy.typing import NDArray

from galaxy_mpi.arrays import F32, Bytes
from galaxy_mpi.dtypes.matrix import matrix_shape

__all__ = ["PlainCodec", "PlainRows"]


class PlainCodec:
    """The `Codec` of a format whose values are items of an array.

    Parameters
    ----------
    shape : tuple of int
    item : dtype
        ``float32`` or ``bfloat16``.
    """

    def __init__(self, shape: tuple[int, ...], item: Any) -> None:
        self._shape = shape
        self._item = np.dtype(item)
        rows, width = matrix_shape(shape)
        self.n_bytes = rows * width * self._item.itemsize
        # Terms and values on the way; pages that are never written are never there.
        self._rounded = np.empty(shape, self._item)
        self._term = np.empty(shape, np.float32)
        self._total = np.empty(shape, np.float32)

    def pack(self, values: F32, out: Bytes) -> None:
        """Round and pack."""
        self._check(values)
        np.copyto(self._items(out), values, casting="unsafe")

    def unpack(self, packed: Bytes, out: F32) -> None:
        """Write the values of ``packed`` to ``out``."""
        self._check(out)
        np.copyto(out, self._items(packed))

    def unpack_bf16(self, packed: Bytes, out: NDArray[np.uint16]) -> None:
        """Write the values of ``packed`` to ``out`` as bfloat16."""
        self._check(out)
        np.copyto(out.view(bfloat16), self._items(packed), casting="unsafe")

    def round(self, values: F32, out: F32) -> None:
        """Write the nearest values of the format to ``out``."""
        self._check(values)
        self._check(out)
        if self._item == np.float32:
            np.copyto(out, values)
        else:
            np.copyto(self._rounded, values, casting="unsafe")
            np.copyto(out, self._rounded)

    def add_terms(self, blocks: Bytes, out: F32) -> None:
        """Write the sum of the terms in ``blocks`` to ``out``."""
        self.unpack(blocks[0, : self.n_bytes], out)
        for packed in blocks[1:, : self.n_bytes]:
            self.unpack(packed, self._term)
            np.add(out, self._term, out)

    def pack_sum(self, blocks: Bytes, out: Bytes, values: F32 | None = None) -> None:
        """Round and pack the sum of the terms in ``blocks``."""
        self.add_terms(blocks, self._total)
        self.pack(self._total, out)
        if values is not None:
            self.unpack(out, values)

    def _items(self, packed: Bytes) -> NDArray[Any]:
        if packed.shape != (self.n_bytes,):
            raise ValueError(f"got {packed.shape} packed bytes, {self._shape} has {self.n_bytes}")
        items: NDArray[Any] = packed.view(self._item)
        return items.reshape(self._shape)

    def _check(self, values: NDArray[Any]) -> None:
        if values.shape != self._shape:
            raise ValueError(f"got values {values.shape}, the codec is bound to {self._shape}")


class PlainRows:
    """The `RowCodec` of a format whose values are items of an array."""

    def __init__(self, rows: int, width: int, item: Any) -> None:
        self._item = np.dtype(item)
        self._shape = rows, width
        self.row_bytes = width * self._item.itemsize

    def pack(self, values: F32, out: Bytes) -> None:
        """Round and pack each row into a row of ``out``."""
        np.copyto(self._items(out, values), values, casting="unsafe")

    def unpack(self, packed: Bytes, out: F32) -> None:
        """Write the values of each row of ``packed`` to a row of ``out``."""
        np.copyto(out, self._items(packed, out))

    def unpack_bf16(self, packed: Bytes, out: NDArray[np.uint16]) -> None:
        """Write the values of each row of ``packed`` to ``out`` as bfloat16."""
        np.copyto(out.view(bfloat16), self._items(packed, out), casting="unsafe")

    def _items(self, packed: Bytes, values: NDArray[Any]) -> NDArray[Any]:
        wanted = self._shape[0], self.row_bytes
        if packed.shape != wanted or values.shape != self._shape:
            raise ValueError(
                f"got rows of {packed.shape} bytes and {values.shape} values, "
                f"wanted {wanted} and {self._shape}"
            )
        return packed.view(self._item)
