"""Calls that several collectives add to a program."""

from math import prod
from typing import cast

import numpy as np

from galaxy_mpi.arrays import F32, Bytes
from galaxy_mpi.ccl.bench import Bench
from galaxy_mpi.ccl.wire import Index, Wire
from galaxy_mpi.dtypes import FLOAT32, TILE, DType

__all__ = [
    "add_rows",
    "alone",
    "are_one",
    "chunks_of",
    "dtype_of",
    "pack_chunks",
    "round_in_place",
    "unpack_rows",
    "whole_shape",
]


def dtype_of(wire: Wire) -> DType:
    """Return the number format of a wire that carries values."""
    assert not isinstance(wire.dtype, Index)
    return cast(DType, wire.dtype)


def alone(bench: Bench, *, is_first: bool) -> None:
    """Let device time pass in a group of one chip, which exchanges nothing."""
    if bench.clock is not None and is_first:
        times = np.zeros(1)
        bench.call(bench.clock.enter, times, 0)
        bench.call(bench.clock.leave, times)


def round_in_place(bench: Bench, dtype: DType, values: F32) -> None:
    """Round values to a format; float32 adds no call."""
    if dtype is not FLOAT32:
        bench.call(bench.codec(dtype, values.shape).round, values, values)


def add_rows(bench: Bench, rows: F32, out: F32) -> None:
    """Add float32 terms in the order of the members.

    numpy adds whole rows one after the other when it reduces the outermost dim. Where that is the
    only dim longer than 1 it would not (it adds in pairs), so there rows are added one by one.
    """
    if len(rows) == 1:
        bench.call(np.copyto, out, rows[0])
    elif out.size > 1:
        bench.call(np.add.reduce, rows, 0, None, out)
    else:
        bench.call(np.add, rows[0], rows[1], out)
        for row in rows[2:]:
            bench.call(np.add, out, row, out)


def whole_shape(wire: Wire, size: int, *, by_rows: bool) -> tuple[int, ...]:
    """Return the shape of all chunks of a reduce-scatter, as a term has them."""
    sent = wire.sent
    return (size * sent[0], *sent[1:]) if by_rows else (*sent[:-1], size * sent[-1])


def chunks_of(term: F32, wire: Wire, size: int, *, by_rows: bool) -> F32:
    """Return the chunks of a term, (size, *sent): a view."""
    sent = wire.sent
    if by_rows:
        return term.reshape(size, *sent)
    return np.moveaxis(term.reshape(*sent[:-1], size, sent[-1]), -2, 0)


def are_one(dtype: DType, shape: tuple[int, ...]) -> bool:
    """Return whether packed blocks (size, *block), one behind the other, are one array.

    So they are where a block ends with a row of tiles, and in formats without tiles.
    """
    has_tiles = dtype.packed_bytes((1, 1)) == dtype.tile_bytes
    return not has_tiles or prod(shape[1:-1]) % TILE == 0


def pack_chunks(bench: Bench, dtype: DType, chunks: F32, out: Bytes) -> None:
    """Pack (size, *shape) into (size, n_bytes), in one call where that can be."""
    if are_one(dtype, chunks.shape) and out.flags.c_contiguous:
        values = chunks
        if not chunks.flags.c_contiguous:
            values = bench.array(*chunks.shape)
            bench.call(np.copyto, values, chunks)
        bench.call(bench.codec(dtype, chunks.shape).pack, values, out.reshape(-1))
        return
    pack = bench.codec(dtype, chunks.shape[1:]).pack
    for chunk, row in zip(chunks, out, strict=True):
        bench.call(pack, chunk, row)


def unpack_rows(bench: Bench, dtype: DType, rows: Bytes, out: F32) -> None:
    """Unpack one block a member into ``out`` (size, *shape), in one call where that can be."""
    if are_one(dtype, out.shape) and rows.flags.c_contiguous:
        bench.call(bench.codec(dtype, out.shape).unpack, rows.reshape(-1), out)
        return
    unpack = bench.codec(dtype, out.shape[1:]).unpack
    for row, values in zip(rows, out, strict=True):
        bench.call(unpack, row, values)
