"""One packed block per member: packing, unpacking and adding them together."""

from typing import Protocol

import numpy as np

from galaxy_mpi.arrays import F32, Bytes
from galaxy_mpi.dtypes import FLOAT32, DType

__all__ = ["Terms", "add_in_order", "as_values", "pack_blocks", "terms_of", "unpack_blocks"]


def add_in_order(terms: F32) -> F32:
    """Return ``((terms[0] + terms[1]) + terms[2]) + ...``: a new array.

    numpy adds whole rows one after the other when it reduces the outermost dim.
    """
    total: F32 = np.add.reduce(terms, axis=0)
    return total


def pack_blocks(dtype: DType, values: F32, out: Bytes) -> None:
    """Pack one block per member of ``values`` (size, *shape) into ``out`` (size, n)."""
    if dtype.packed_bytes(values.shape) == out.size:  # as one: no row of a tile is padding
        out.reshape(-1)[...] = dtype.pack(values)
        return
    for block, part in zip(out, values, strict=True):
        block[...] = dtype.pack(part)


def unpack_blocks(dtype: DType, blocks: Bytes, out: F32) -> None:
    """Unpack one block per member into ``out`` of shape (size, *shape)."""
    if dtype.packed_bytes(out.shape) == blocks.size:  # as one: no row of a tile is padding
        dtype.unpack(blocks.reshape(-1), out.shape, out)
        return
    for block, values in zip(blocks, out, strict=True):
        dtype.unpack(np.ascontiguousarray(block), values.shape, values)


def as_values(dtype: DType, blocks: Bytes, scratch: F32) -> F32:
    """Return one block per member as values (size, *shape): a view, or unpacked in ``scratch``."""
    if dtype is FLOAT32:
        return blocks.view(np.float32).reshape(scratch.shape)
    unpack_blocks(dtype, blocks, scratch)
    return scratch


class Terms(Protocol):
    """The terms of a sum in storage that was bound once."""

    def put(self, values: F32) -> None:
        """Write this chip's term, or its terms of several sums."""

    def total(self) -> F32:
        """Return the sum of the members' terms, not rounded: a new array."""


class _PackedTerms:
    def __init__(self, dtype: DType, outbox: Bytes, inbox: Bytes, shape: tuple[int, ...]) -> None:
        self._dtype, self._outbox, self._inbox = dtype, outbox, inbox
        self._scratch = np.empty((len(inbox), *shape), np.float32)

    def put(self, values: F32) -> None:
        """Pack."""
        if self._outbox.ndim == 1:
            self._outbox[...] = self._dtype.pack(values)
        else:
            pack_blocks(self._dtype, values, self._outbox)

    def total(self) -> F32:
        """Unpack and add."""
        unpack_blocks(self._dtype, self._inbox, self._scratch)
        return add_in_order(self._scratch)


class _PlainTerms:
    """float32 as it lies, in as few calls of numpy as can be: what they cost is not the adding."""

    def __init__(self, outbox: Bytes, inbox: Bytes, shape: tuple[int, ...]) -> None:
        self._out = outbox.view(np.float32).reshape(*outbox.shape[:-1], *shape)
        first, *rest = (row.view(np.float32).reshape(shape) for row in inbox)
        self._first, self._second, self._rest = first, rest[0] if rest else None, rest[1:]

    def put(self, values: F32) -> None:
        """Copy."""
        self._out[...] = values

    def total(self) -> F32:
        """Add."""
        if self._second is None:
            alone: F32 = self._first.copy()
            return alone
        total: F32 = np.add(self._first, self._second)
        for term in self._rest:
            np.add(total, term, total)
        return total


def terms_of(dtype: DType, outbox: Bytes, inbox: Bytes, shape: tuple[int, ...]) -> Terms:
    """Return the terms of sums of ``shape`` in two pieces of storage.

    Parameters
    ----------
    dtype : DType
        Of the terms.
    outbox : ndarray of shape (n,) or (members, n), uint8
        Where this chip's term is written, or one for each member.
    inbox : ndarray of shape (members, n), uint8
        The terms that are added.
    shape : tuple of int
    """
    if dtype is FLOAT32:
        return _PlainTerms(outbox, inbox, shape)
    return _PackedTerms(dtype, outbox, inbox, shape)
