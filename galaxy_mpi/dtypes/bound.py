"""The calls of a format that take any shape, on top of codecs that are bound to one."""

import math
import threading
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from galaxy_mpi.arrays import F32, Bytes
from galaxy_mpi.dtypes.choice import Codecs, chosen_codecs
from galaxy_mpi.dtypes.codec import Codec, RowCodec
from galaxy_mpi.dtypes.named import Named

__all__ = ["Bound"]

_KEPT = 32
"""Codecs kept of each kind; a step asks for about a dozen shapes, prefill for many once."""

_C = TypeVar("_C", Codec, RowCodec)


class _Kept(threading.local):
    """The codecs of one thread: they own scratch."""

    def __init__(self) -> None:
        self.codecs: OrderedDict[tuple[int, ...], Codec] = OrderedDict()
        self.rows: OrderedDict[tuple[int, ...], RowCodec] = OrderedDict()


class Bound(Named, ABC):
    """A format; codecs for the shapes seen last are kept, in each thread its own.

    Parameters
    ----------
    codecs : Codecs, optional
        Where codecs come from; by default what `chosen_codecs` returns when one is needed.
    """

    def __init__(self, codecs: Codecs | None = None) -> None:
        self._codecs = codecs
        self._kept = _Kept()

    @property
    def codecs(self) -> Codecs:
        """Where codecs come from."""
        return chosen_codecs() if self._codecs is None else self._codecs

    @abstractmethod
    def codec(self, shape: tuple[int, ...]) -> Codec:
        """Return what packs and unpacks arrays of ``shape``; it belongs to one thread."""

    @abstractmethod
    def row_codec(self, rows: int, width: int) -> RowCodec:
        """Return what packs ``rows`` rows, each by itself; it belongs to one thread."""

    @abstractmethod
    def packed_bytes(self, shape: tuple[int, ...]) -> int:
        """Return how many bytes `pack` makes of an array of ``shape``."""

    @abstractmethod
    def row_bytes(self, width: int) -> int:
        """Return the bytes of one row of ``width`` values packed by itself."""

    def round(self, values: F32) -> F32:
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
        out = np.empty(values.shape, np.float32)
        self._of(values.shape).round(np.ascontiguousarray(values, np.float32), out)
        return out

    def pack(self, values: F32) -> Bytes:
        """Round and pack.

        Parameters
        ----------
        values : ndarray of shape (..., C), float32
            Leading dims are flattened to rows. Of block floats, ragged edges are padded with
            zeros to whole tiles.

        Returns
        -------
        ndarray of shape (packed_bytes(values.shape),), uint8
            Block floats: the tiles in row-major order, each 64 exponents and its data. Others:
            the values in row-major order, little-endian.
        """
        codec = self._of(values.shape)
        out = np.empty(codec.n_bytes, np.uint8)
        codec.pack(np.ascontiguousarray(values, np.float32), out)
        return out

    def unpack(self, packed: Bytes, shape: tuple[int, ...], out: F32 | None = None) -> F32:
        """Return packed values.

        Parameters
        ----------
        packed : ndarray of shape (packed_bytes(shape),), uint8
            What `pack` returned.
        shape : tuple of int
            Shape of the values; padding is dropped.
        out : ndarray of ``shape``, float32, optional
            Overwritten and returned.

        Returns
        -------
        ndarray of ``shape``, float32
        """
        if out is None:
            out = np.empty(shape, np.float32)
        self._of(shape).unpack(np.ascontiguousarray(packed), out)
        return out

    def pack_rows(self, values: F32) -> Bytes:
        """Round and pack each row by itself: shape (..., W) to (..., row_bytes(W))."""
        *leading, width = values.shape
        matrix = np.ascontiguousarray(values, np.float32).reshape(math.prod(leading), width)
        codec = self._rows_of(*matrix.shape)
        out = np.empty((len(matrix), codec.row_bytes), np.uint8)
        codec.pack(matrix, out)
        return out.reshape(*leading, codec.row_bytes)

    def unpack_rows(self, packed: Bytes, width: int) -> F32:
        """Undo `pack_rows`."""
        *leading, row_bytes = packed.shape
        matrix = np.ascontiguousarray(packed).reshape(math.prod(leading), row_bytes)
        out = np.empty((len(matrix), width), np.float32)
        self._rows_of(*out.shape).unpack(matrix, out)
        return out.reshape(*leading, width)

    def _of(self, shape: tuple[int, ...]) -> Codec:
        return _recent(self._kept.codecs, tuple(shape), lambda: self.codec(tuple(shape)))

    def _rows_of(self, rows: int, width: int) -> RowCodec:
        return _recent(self._kept.rows, (rows, width), lambda: self.row_codec(rows, width))


def _recent(
    kept: OrderedDict[tuple[int, ...], _C], key: tuple[int, ...], make: Callable[[], _C]
) -> _C:
    found = kept.get(key)
    if found is None:
        found = kept[key] = make()
        if len(kept) > _KEPT:
            kept.popitem(last=False)
    else:
        kept.move_to_end(key)
    return found
