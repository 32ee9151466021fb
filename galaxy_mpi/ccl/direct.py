"""Collectives in one step: everybody writes a row of a table, all cross, everybody reads.

Where the fabric routes by itself, a chip writes straight to the chip it means. In reductions each
term is rounded when it is packed, the sum once at the end, and nothing in between; the order is that
of the members, so all who add the same terms get the same bits.

A group of one chip exchanges nothing: its term is only rounded.
"""

from collections.abc import Callable
from math import prod
from typing import Any, cast

import numpy as np

from galaxy_mpi.arrays import F32, Bytes
from galaxy_mpi.ccl.bench import Bench
from galaxy_mpi.ccl.wire import Index, Wire
from galaxy_mpi.dtypes import FACE, FLOAT32, DType
from galaxy_mpi.mesh.plane import Table

__all__ = ["DirectAllGather", "DirectAllReduce", "DirectReduceScatter", "SplitAllReduce"]


def dtype_of(wire: Wire) -> DType:
    """Return the number format of a wire that carries values."""
    assert not isinstance(wire.dtype, Index)
    return cast(DType, wire.dtype)


def cross_table(bench: Bench, wire: Wire, table: Table, *, is_first: bool = True) -> None:
    """Add a crossing; the first of a collective carries the chip's device time."""
    clock, index = bench.clock if is_first else None, bench.index(wire.axis)
    if clock is not None:
        bench.call(clock.enter, table.times, index)
    bench.cross(table.crossing)
    if clock is not None:
        bench.call(clock.leave, table.times)


def alone(bench: Bench, wire: Wire, *, is_first: bool = True) -> None:
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
    """Add float32 terms in the order of the members."""
    if len(rows) == 1:
        bench.call(np.copyto, out, rows[0])
        return
    bench.call(np.add, rows[0], rows[1], out)
    for row in rows[2:]:
        bench.call(np.add, out, row, out)


class DirectAllGather:
    """Every member gets every member's block: ``sent`` to ``(size, *sent)``.

    Parameters
    ----------
    bench : Bench
    wire : Wire
    is_first : bool
        Whether this is the first exchange of its op, which carries device time.
    """

    def __init__(self, bench: Bench, wire: Wire, *, is_first: bool = True) -> None:
        self._bench, self._wire, self._is_first = bench, wire, is_first
        plane = bench.plane(wire.axis)
        self._size, self._table = plane.size, None
        if plane.size == 1:
            self.term: Any = bench.array(*wire.sent)
            if isinstance(wire.dtype, Index):
                self.term = np.empty(wire.sent, f"u{wire.dtype.n_bytes}")
            return
        table = plane.table(bench.rank, bench.label(wire), wire.sent_bytes, in_parts=False)
        self._table = table
        if isinstance(wire.dtype, Index):
            self.term = table.mine.view(f"u{wire.dtype.n_bytes}").reshape(wire.sent)
        elif wire.dtype is FLOAT32:
            self.term = table.mine.view(np.float32).reshape(wire.sent)
        else:
            self.term = bench.array(*wire.sent)

    def cross(self) -> Any:
        """Add the exchange; return (size, *sent), values of the wire's format."""
        bench, wire, table = self._bench, self._wire, self._table
        if table is None:
            if not isinstance(wire.dtype, Index):
                round_in_place(bench, dtype_of(wire), self.term)
            alone(bench, wire, is_first=self._is_first)
            return self.term[None]
        if isinstance(wire.dtype, Index) or wire.dtype is FLOAT32:
            cross_table(bench, wire, table, is_first=self._is_first)
            return table.rows.view(self.term.dtype).reshape(self._size, *wire.sent)
        dtype = dtype_of(wire)
        bench.call(bench.codec(dtype, wire.sent).pack, self.term, table.mine)
        cross_table(bench, wire, table, is_first=self._is_first)
        out = bench.array(self._size, *wire.sent)
        unpack_rows(bench, dtype, table.rows, out)
        return out


def unpack_rows(bench: Bench, dtype: DType, rows: Bytes, out: F32) -> None:
    """Unpack one block a member into ``out`` (size, *shape); as one where no tile has padding."""
    if dtype.packed_bytes(out.shape) == rows.size and rows.flags.c_contiguous:
        bench.call(bench.codec(dtype, out.shape).unpack, rows.reshape(-1), out)
        return
    unpack = bench.codec(dtype, out.shape[1:]).unpack
    for row, values in zip(rows, out, strict=True):
        bench.call(unpack, row, values)


class DirectReduceScatter:
    """The owner of a chunk gets all terms of it.

    The term is the whole tensor as an op makes it, with the chunks side by side in its last dim, or
    one below the other in its first.

    Parameters
    ----------
    bench, wire, is_first
        As in `DirectAllGather`.
    by_rows : bool
        Whether chunks are rows of the term, (size * r, ...), or columns, (..., size * w).
    rounds : callable, optional
        How the owner adds the terms, given (bench, terms (size, n_bytes), wire, out); by default all
        at once in the order of the members, rounded at the end.
    """

    def __init__(
        self,
        bench: Bench,
        wire: Wire,
        *,
        by_rows: bool,
        is_first: bool = True,
        is_rounded: bool = True,
        add: Callable[..., None] | None = None,
    ) -> None:
        self._bench, self._wire, self._by_rows = bench, wire, by_rows
        self._is_first, self._is_rounded, self._add = is_first, is_rounded, add
        plane = bench.plane(wire.axis)
        size, sent = plane.size, wire.sent
        self._size, self._table = size, None
        whole = (size * sent[0], *sent[1:]) if by_rows else (*sent[:-1], size * sent[-1])
        if size == 1:
            self.term = bench.array(*sent)
            return
        self._copies_parts = not (by_rows or plane.shares_memory)
        self._table = plane.table(
            bench.rank, bench.label(wire), size * wire.sent_bytes, in_parts=True
        )
        self._is_plain = wire.dtype is FLOAT32
        if self._is_plain and not self._copies_parts:
            self.term = self._table.mine.view(np.float32).reshape(whole)
        else:
            self.term = bench.array(*whole)

    def cross(self) -> F32:
        """Add the exchange; return this chip's chunk of the sum, rounded unless asked otherwise."""
        bench, wire, table = self._bench, self._wire, self._table
        dtype = dtype_of(wire)
        if table is None:
            if self._is_rounded:
                round_in_place(bench, dtype, self.term)
            alone(bench, wire, is_first=self._is_first)
            return self.term
        size, index, sent = self._size, bench.index(wire.axis), wire.sent
        if self._is_plain:
            if self._copies_parts:
                parts = table.mine.view(np.float32).reshape(size, *sent)
                bench.call(np.copyto, parts, self._chunks(self.term))
        else:
            pack_chunks(bench, dtype, self._chunks(self.term), table.mine.reshape(size, -1))
        cross_table(bench, wire, table, is_first=self._is_first)
        out = bench.array(*sent)
        if self._add is not None:
            self._add(bench, self._mine(table, index), wire, out)
        elif self._is_plain:
            add_rows(bench, self._plain_terms(table, index), out)
        else:
            terms = table.rows.reshape(size, size, -1)[:, index]
            bench.call(bench.codec(dtype, sent).add_terms, terms, out)
        if self._is_rounded:
            round_in_place(bench, dtype, out)
        return out

    def _chunks(self, term: F32) -> F32:
        """Return the chunks of a term, (size, *sent): a view."""
        size, sent = self._size, self._wire.sent
        if self._by_rows:
            return term.reshape(size, *sent)
        return np.moveaxis(term.reshape(*sent[:-1], size, sent[-1]), -2, 0)

    def _plain_terms(self, table: Table, index: int) -> F32:
        rows = table.rows.view(np.float32)
        size, sent = self._size, self._wire.sent
        if self._copies_parts or self._by_rows:
            return rows.reshape(size, size, *sent)[:, index]
        return rows.reshape(size, *sent[:-1], size, sent[-1])[..., index, :]

    def _mine(self, table: Table, index: int) -> Any:
        if self._is_plain:
            return self._plain_terms(table, index)
        return table.rows.reshape(self._size, self._size, -1)[:, index]


def pack_chunks(bench: Bench, dtype: DType, chunks: F32, out: Bytes) -> None:
    """Pack (size, *shape) into (size, n_bytes); as one where no tile has padding."""
    if dtype.packed_bytes(chunks.shape) == out.size and out.flags.c_contiguous:
        values = chunks
        if not chunks.flags.c_contiguous:
            values = bench.array(*chunks.shape)
            bench.call(np.copyto, values, chunks)
        bench.call(bench.codec(dtype, chunks.shape).pack, values, out.reshape(-1))
        return
    pack = bench.codec(dtype, chunks.shape[1:]).pack
    for chunk, row in zip(chunks, out, strict=True):
        bench.call(pack, chunk, row)


class DirectAllReduce:
    """Every member gathers all terms and adds them; for small tensors.

    Parameters
    ----------
    bench, wire, is_first
        As in `DirectAllGather`.
    """

    def __init__(self, bench: Bench, wire: Wire, *, is_first: bool = True) -> None:
        self._bench, self._wire, self._is_first = bench, wire, is_first
        plane = bench.plane(wire.axis)
        self._size, self._table = plane.size, None
        if plane.size == 1:
            self.term = bench.array(*wire.sent)
            return
        self._table = plane.table(
            bench.rank, bench.label(wire), wire.sent_bytes, in_parts=False
        )
        if wire.dtype is FLOAT32:
            self.term = self._table.mine.view(np.float32).reshape(wire.sent)
        else:
            self.term = bench.array(*wire.sent)

    def cross(self) -> F32:
        """Add the exchange; return the sum, rounded: an array of its own."""
        bench, wire, table = self._bench, self._wire, self._table
        dtype = dtype_of(wire)
        if table is None:
            round_in_place(bench, dtype, self.term)
            alone(bench, wire, is_first=self._is_first)
            return self.term
        if dtype is not FLOAT32:
            bench.call(bench.codec(dtype, wire.sent).pack, self.term, table.mine)
        cross_table(bench, wire, table, is_first=self._is_first)
        out = bench.array(*wire.sent)
        if dtype is FLOAT32:
            rows = table.rows.view(np.float32).reshape(self._size, *wire.sent)
            add_rows(bench, rows, out)
        else:
            bench.call(bench.codec(dtype, wire.sent).add_terms, table.rows, out)
            round_in_place(bench, dtype, out)
        return out


class SplitAllReduce:
    """Every member adds the terms of a part, and gathers the parts: the same bits, less work.

    The tensor is cut along its last dim, where blocks that share an exponent end; what does not
    divide is padded with zeros.

    Parameters
    ----------
    bench, wire, is_first
        As in `DirectAllGather`.
    scatter, gather : callable
        Make the two halves, given (bench, wire, is_first=...), the first with ``by_rows`` and
        ``is_rounded`` too; `DirectReduceScatter` and `DirectAllGather` by default.
    """

    def __init__(
        self,
        bench: Bench,
        wire: Wire,
        *,
        is_first: bool = True,
        scatter: Callable[..., Any] = DirectReduceScatter,
        gather: Callable[..., Any] = DirectAllGather,
    ) -> None:
        self._bench, self._wire, self._is_first, self._make_gather = bench, wire, is_first, gather
        size = bench.plane(wire.axis).size
        rows, columns = prod(wire.sent[:-1]), wire.sent[-1]
        width = part_width(wire.sent, size)
        self._part = Wire(wire.key, wire.axis, wire.kind, wire.dtype, (rows, width))
        self._scatter = scatter(
            bench, self._part, by_rows=False, is_rounded=False, is_first=is_first
        )
        whole: F32 = self._scatter.term.reshape(rows, size * width)
        self._size = size
        if columns < size * width:
            bench.call(whole[:, columns:].fill, 0)
        # A view wherever the dims in front can be one.
        self.term = whole[:, :columns].reshape(wire.sent) if len(wire.sent) == 2 else None
        if self.term is None:
            self.term = bench.array(*wire.sent)
            self._copy_to: F32 | None = whole[:, :columns]
        else:
            self._copy_to = None

    def cross(self) -> F32:
        """Add both exchanges; return the sum, rounded: an array of its own."""
        bench, wire, part = self._bench, self._wire, self._part
        rows, width = part.sent
        if self._copy_to is not None:
            bench.call(np.copyto, self._copy_to, self.term.reshape(self._copy_to.shape))
        mine = self._scatter.cross()
        # The device charges both halves where the first begins.
        gather = self._make_gather(bench, part, is_first=False)
        bench.call(np.copyto, gather.term, mine)
        parts = gather.cross()
        columns = wire.sent[-1]
        out = bench.array(rows, columns)
        for number in range(self._size):
            begin, end = number * width, min((number + 1) * width, columns)
            if begin < end:
                bench.call(np.copyto, out[:, begin:end], parts[number][:, : end - begin])
        return out.reshape(wire.sent)


WORTH_PARTS = 2**14
"""Values of a tensor from which adding them on one chip only is worth another crossing."""


def part_width(shape: tuple[int, ...], size: int) -> int:
    """Return the columns of a part: whole blocks of values that share an exponent."""
    return -(-shape[-1] // (FACE * size)) * FACE


def direct_all_reduce(
    bench: Bench, wire: Wire, *, is_first: bool = True
) -> DirectAllReduce | SplitAllReduce:
    """Return the quickest for a shape; the bits are the same."""
    size = bench.plane(wire.axis).size
    # Parts that are mostly padding would be more bytes, not fewer.
    fits = part_width(wire.sent, size) * size < 2 * wire.sent[-1]
    if size > 1 and prod(wire.sent) >= WORTH_PARTS and fits:
        return SplitAllReduce(bench, wire, is_first=is_first)
    return DirectAllReduce(bench, wire, is_first=is_first)
