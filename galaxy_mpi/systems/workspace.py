"""Scratch memory of attention and of products, and what layers of a program share."""

from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

import numpy as np

from galaxy_mpi.arrays import F32, Bytes
from galaxy_mpi.dtypes import DType, RowCodec

if TYPE_CHECKING:
    from galaxy_mpi.systems.decode_attention import LayersAttention

__all__ = ["Workspace"]

_MOST_CODECS = 8


class Workspace:
    """Scratch arrays shared by attention and products of all layers of a thread; they grow."""

    def __init__(self) -> None:
        self._bytes: dict[str, Bytes] = {}
        self._views: dict[tuple[str | int, ...], Bytes] = {}
        self._codecs: dict[tuple[DType, int, int], RowCodec] = {}
        self.layers: WeakValueDictionary[tuple[object, ...], LayersAttention]
        self.layers = WeakValueDictionary()
        """What layers of a bound program share; it goes with the last of them."""

    def row_codec(self, dtype: DType, rows: int, width: int) -> RowCodec:
        """Return a codec for rows, one of the last few."""
        key = dtype, rows, width
        codec = self._codecs.get(key)
        if codec is None:
            if len(self._codecs) > _MOST_CODECS:
                self._codecs.clear()
            codec = self._codecs[key] = dtype.row_codec(rows, width)
        return codec

    def bytes(self, name: str, *shape: int) -> Bytes:
        """Return named scratch bytes, overwritten by the next use of the name."""
        key: tuple[str | int, ...] = (name, *shape)
        view = self._views.get(key)
        if view is None:
            n_bytes = int(np.prod(shape))
            if name not in self._bytes or len(self._bytes[name]) < n_bytes:
                self._bytes[name] = np.empty(n_bytes, np.uint8)
                # Views of the smaller array would keep it alive.
                self._views = {k: v for k, v in self._views.items() if k[0] != name}
            elif len(self._views) > 1000:
                self._views.clear()
            view = self._views[key] = self._bytes[name][:n_bytes].reshape(shape)
        return view

    def values(self, name: str, *shape: int) -> F32:
        """Return named scratch of float32."""
        values: F32 = self.bytes(name, *shape[:-1], 4 * shape[-1]).view(np.float32)
        return values
