"""Calls that several collectives add to a program."""

from math import prod
from typing import cast

import numpy as np

from galaxy_mpi.arrays import F32, Bytes
from galaxy_mpi.ccl.builder import Builder
from galaxy_mpi.ccl.wire import Index, Wire
from galaxy_mpi.dtypes import FLOAT32, TILE, DType

__all__ = [
    "add_rows",
    "are_one",
    "chunks_of",
    "dtype_of",
    "pack_chunks",
    "round_in_place",
    "unpack_rows",
    "whole_shape",
]


WORTH_CALLS = 2048
"""Values of a chunk from which on a call for it takes less time than copying it."""


def dtype_of(wire: Wire) -> DType:
    """Return the number format of a wire that sends values."""
    assert not isinstance(wire.dtype, Index)
    return cast(DType, wire.dtype)


def round_in_place(builder: Builder, dtype: DType, values: F32) -> None:
    """Round values to a format; float32 adds no call."""
    if dtype is not FLOAT32:
        builder.call(builder.codec(dtype, values.shape).round, values, values)


FEW_ROWS = 4
"""Up to so many rows, calls that add one each take less time than a reduction."""


def add_rows(builder: Builder, rows: F32, out: F32) -> None:
    """Add float32 terms in the order of the members.

    When numpy reduces the outermost dim, it adds whole rows one after the other. If that is the
    only dim longer than 1, it adds in pairs instead, so then rows are added one by one; so are few,
    for which this is faster.
    """
    if len(rows) == 1:
        builder.call(np.copyto, out, rows[0])
    elif len(rows) > FEW_ROWS and out.size > 1:
        builder.call(np.add.reduce, rows, 0, None, out)
    else:
        builder.call(np.add, rows[0], rows[1], out)
        for row in rows[2:]:
            builder.call(np.add, out, row, out)


def whole_shape(wire: Wire, size: int, *, by_rows: bool) -> tuple[int, ...]:
    """Return the shape of a reduce-scatter's term, with all chunks."""
    sent = wire.sent
    return (size * sent[0], *sent[1:]) if by_rows else (*sent[:-1], size * sent[-1])


def chunks_of(term: F32, wire: Wire, size: int, *, by_rows: bool) -> F32:
    """Return the chunks of a term, (size, *sent), as a view."""
    sent = wire.sent
    if by_rows:
        return term.reshape(size, *sent)
    return np.moveaxis(term.reshape(*sent[:-1], size, sent[-1]), -2, 0)


def are_one(dtype: DType, shape: tuple[int, ...]) -> bool:
    """Return whether consecutive packed blocks (size, *block) are the packed form of one array.

    They are if every block ends with a whole row of tiles, and in formats without tiles.
    """
    has_tiles = dtype.packed_bytes((1, 1)) == dtype.tile_bytes
    return not has_tiles or prod(shape[1:-1]) % TILE == 0


def pack_chunks(builder: Builder, dtype: DType, chunks: F32, out: Bytes) -> None:
    """Pack (size, *shape) into (size, n_bytes), in one call if possible."""
    is_one = are_one(dtype, chunks.shape) and out.flags.c_contiguous
    if is_one and (chunks.flags.c_contiguous or chunks[0].size < WORTH_CALLS):
        values = chunks
        if not chunks.flags.c_contiguous:
            values = builder.array(*chunks.shape)
            builder.call(np.copyto, values, chunks)
        builder.call(builder.codec(dtype, chunks.shape).pack, values, out.reshape(-1))
        return
    pack = builder.codec(dtype, chunks.shape[1:]).pack
    for chunk, row in zip(chunks, out, strict=True):
        builder.call(pack, chunk, row)


def unpack_rows(builder: Builder, dtype: DType, rows: Bytes, out: F32) -> None:
    """Unpack one block a member into ``out`` (size, *shape), in one call if possible."""
    if are_one(dtype, out.shape) and rows.flags.c_contiguous and out.flags.c_contiguous:
        builder.call(builder.codec(dtype, out.shape).unpack, rows.reshape(-1), out)
        return
    unpack = builder.codec(dtype, out.shape[1:]).unpack
    for row, values in zip(rows, out, strict=True):
        builder.call(unpack, row, values)
