"""float32 and bfloat16 bound to a shape, in numpy.

Both travel and rest in row-major order; a chip would tile them, which moves bytes about but does
not change their number or value.
"""

import numpy as np
from numpy.typing import DTypeLike, NDArray

from galaxy_mpi.arrays import F32, Bytes
from galaxy_mpi.dtypes.matrix import as_pairs, as_rows, write_pairs

__all__ = ["PlainCodec", "PlainRows"]


class _Plain:
    """What both kinds of codec do with values that are items of an array.

    Parameters
    ----------
    rows, width : int
    item : dtype
        ``float32`` or ``bfloat16``.
    """

    def __init__(self, rows: int, width: int, item: DTypeLike) -> None:
        self._shape = rows, width
        self._item = np.dtype(item)

    def pack(self, values: F32, out: Bytes) -> None:
        """Round and pack."""
        np.copyto(self._items(out), as_rows(values, *self._shape), casting="unsafe")

    def unpack(self, packed: Bytes, out: F32) -> None:
        """Write the values of ``packed`` to ``out``."""
        np.copyto(as_rows(out, *self._shape), self._items(packed))

    def _items(self, packed: Bytes) -> NDArray[np.generic]:
        """Return the items of ``packed``, of shape (rows, width)."""
        raise NotImplementedError


class PlainCodec(_Plain):
    """The `Codec` of a format whose values are items of an array."""

    def __init__(self, rows: int, width: int, item: DTypeLike) -> None:
        super().__init__(rows, width, item)
        self.n_bytes = rows * width * self._item.itemsize
        # On the way from here to there; pages that are never written are never there.
        self._rounded = np.empty(self._shape, self._item)
        self._term = np.empty(self._shape, np.float32)
        self._total = np.empty(self._shape, np.float32)

    def round(self, values: F32, out: F32) -> None:
        """Write the nearest values of the format to ``out``."""
        np.copyto(self._rounded, as_rows(values, *self._shape), casting="unsafe")
        np.copyto(as_rows(out, *self._shape), self._rounded)

    def unpack_pairs(self, packed: Bytes, out: NDArray[np.uint32]) -> None:
        """Write the values of ``packed`` to ``out`` as bfloat16, two rows in one."""
        items = self._items(packed)
        if items.dtype == np.float32:
            from ml_dtypes import bfloat16  # no run does this, so no rank loads it at the start

            items = items.astype(bfloat16)
        write_pairs(items.view(np.uint16), as_pairs(out, *self._shape))

    def add_terms(self, blocks: Bytes, out: F32) -> None:
        """Write the sum of the terms in ``blocks`` to ``out``."""
        total = as_rows(out, *self._shape)
        self.unpack(blocks[0, : self.n_bytes], total)
        for packed in blocks[1:, : self.n_bytes]:
            self.unpack(packed, self._term)
            np.add(total, self._term, total)

    def pack_sum(self, blocks: Bytes, out: Bytes, values: F32 | None = None) -> None:
        """Round and pack the sum of the terms in ``blocks``."""
        self.add_terms(blocks, self._total)
        self.pack(self._total, out)
        if values is not None:
            self.unpack(out, values)

    def _items(self, packed: Bytes) -> NDArray[np.generic]:
        if packed.shape != (self.n_bytes,):
            raise ValueError(f"got {packed.shape} packed bytes, {self._shape} has {self.n_bytes}")
        items: NDArray[np.generic] = packed.view(self._item)
        return items.reshape(self._shape)


class PlainRows(_Plain):
    """The `RowCodec` of a format whose values are items of an array: a row into a row."""

    def __init__(self, rows: int, width: int, item: DTypeLike) -> None:
        super().__init__(rows, width, item)
        self.row_bytes = width * self._item.itemsize

    def _items(self, packed: Bytes) -> NDArray[np.generic]:
        wanted = self._shape[0], self.row_bytes
        if packed.shape != wanted:
            raise ValueError(f"got packed rows of shape {packed.shape}, wanted {wanted}")
        return packed.view(self._item)
