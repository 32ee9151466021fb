"""Collectives in one step: everybody writes a row of a table, all cross, everybody reads.

Where the fabric routes by itself, a chip writes straight to the chip it means. In reductions each
term is rounded when it is packed, the sum once at the end, and nothing in between; the order is
that of the members, so all who add the same terms get the same bits.

Where blocks come to everybody, they may as well be passed on hop by hop (`OpenRows`).

A group of one chip exchanges nothing: its term is only rounded.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from galaxy_mpi.arrays import F32
from galaxy_mpi.ccl.bench import Bench
from galaxy_mpi.ccl.calls import (
    add_rows,
    alone,
    chunks_of,
    dtype_of,
    pack_chunks,
    round_in_place,
    unpack_rows,
    whole_shape,
)
from galaxy_mpi.ccl.rows import OpenRows, at_once, cross_rows
from galaxy_mpi.ccl.wire import Index, Wire
from galaxy_mpi.dtypes import FLOAT32, DType
from galaxy_mpi.mesh.plane import Table

__all__ = ["AddTerms", "DirectAllGather", "DirectAllReduce", "DirectReduceScatter"]

AddTerms = Callable[[Bench, Any, Wire, F32], None]
"""Adds the calls by which an owner adds the terms of its chunk, given (bench, terms, wire, out)."""


class DirectAllGather:
    """Every member gets every member's block: ``sent`` to ``(size, *sent)``.

    Parameters
    ----------
    bench : Bench
    wire : Wire
    is_first : bool
        Whether this is the first exchange of its op, which carries device time.
    open_rows : OpenRows
        How blocks come to everybody.
    """

    def __init__(
        self, bench: Bench, wire: Wire, *, is_first: bool = True, open_rows: OpenRows = at_once
    ) -> None:
        self._bench, self._wire, self._is_first = bench, wire, is_first
        self._size = bench.plane(wire.axis).size
        self._rows: Table | None = None
        self._is_plain = isinstance(wire.dtype, Index) or wire.dtype is FLOAT32
        item: Any = np.float32
        if isinstance(wire.dtype, Index):
            item = f"u{wire.dtype.n_bytes}"
        self.term: Any
        if self._size > 1:
            self._rows = open_rows(bench, wire, wire.sent_bytes)
        if self._rows is not None and self._is_plain:
            self.term = self._rows.mine.view(item).reshape(wire.sent)
        elif isinstance(wire.dtype, Index):
            self.term = np.empty(wire.sent, item)
        else:
            self.term = bench.array(*wire.sent)

    def cross(self) -> Any:
        """Add the exchange; return (size, *sent), values of the wire's format."""
        bench, wire, rows = self._bench, self._wire, self._rows
        if rows is None:
            if not self._is_plain:
                round_in_place(bench, dtype_of(wire), self.term)
            alone(bench, is_first=self._is_first)
            return self.term[None]
        if self._is_plain:
            cross_rows(bench, wire, rows, is_first=self._is_first)
            blocks = rows.rows.view(self.term.dtype).reshape(self._size, *wire.sent)
            if rows.rows.flags.c_contiguous:
                return blocks
            # Whoever reads may count on blocks side by side.
            out = np.empty_like(blocks, order="C")
            if not isinstance(wire.dtype, Index):
                out = bench.array(*blocks.shape)
            bench.call(np.copyto, out, blocks)
            return out
        dtype = dtype_of(wire)
        bench.call(bench.codec(dtype, wire.sent).pack, self.term, rows.mine)
        cross_rows(bench, wire, rows, is_first=self._is_first)
        out = bench.array(self._size, *wire.sent)
        unpack_rows(bench, dtype, rows.rows, out)
        return out


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
    is_rounded : bool
        Whether the sum is rounded; whoever packs it next need not have it so.
    travels : DType, optional
        Format in which the terms come to the owner; the wire's by default.
    add : AddTerms, optional
        How the owner adds the terms, given as (size, *sent) in float32, else as packed rows
        (size, n_bytes). By default all at once in the order of the members.
    """

    def __init__(
        self,
        bench: Bench,
        wire: Wire,
        *,
        by_rows: bool,
        is_first: bool = True,
        is_rounded: bool = True,
        travels: DType | None = None,
        add: AddTerms | None = None,
    ) -> None:
        self._bench, self._wire, self._by_rows = bench, wire, by_rows
        self._is_first, self._is_rounded, self._add = is_first, is_rounded, add
        self._travels = dtype_of(wire) if travels is None else travels
        plane = bench.plane(wire.axis)
        size = self._size = plane.size
        self._rows: Table | None = None
        whole = whole_shape(wire, size, by_rows=by_rows)
        self._is_plain = self._travels is FLOAT32
        # Parts that travel by themselves have to be whole; elsewhere columns stay where they are.
        self._copies_parts = not (by_rows or plane.shares_memory)
        if size > 1:
            n_bytes = size * self._travels.packed_bytes(wire.sent)
            self._rows = at_once(bench, wire, n_bytes, in_parts=True)
        if self._rows is not None and self._is_plain and not self._copies_parts:
            self.term: F32 = self._rows.mine.view(np.float32).reshape(whole)
        else:
            self.term = bench.array(*whole)

    def cross(self, out: F32 | None = None) -> F32:
        """Add the exchange; return this chip's chunk of the sum, in ``out`` if given."""
        bench, wire, rows, size = self._bench, self._wire, self._rows, self._size
        dtype = dtype_of(wire)
        if rows is None:
            alone(bench, is_first=self._is_first)
            if out is None:
                out = self.term
            else:
                bench.call(np.copyto, out, self.term)
        else:
            chunks = chunks_of(self.term, wire, size, by_rows=self._by_rows)
            if not self._is_plain:
                pack_chunks(bench, self._travels, chunks, rows.mine.reshape(size, -1))
            elif self._copies_parts:
                parts = rows.mine.view(np.float32).reshape(size, *wire.sent)
                bench.call(np.copyto, parts, chunks)
            cross_rows(bench, wire, rows, is_first=self._is_first)
            out = bench.array(*wire.sent) if out is None else out
            terms = self._terms(rows)
            if self._add is not None:
                self._add(bench, terms, wire, out)
            elif self._is_plain:
                add_rows(bench, terms, out)
            else:
                bench.call(bench.codec(dtype, wire.sent).add_terms, terms, out)
        if self._is_rounded:
            round_in_place(bench, dtype, out)
        return out

    def _terms(self, rows: Table) -> Any:
        """Return every member's term of this chip's chunk."""
        size, sent, index = self._size, self._wire.sent, self._bench.index(self._wire.axis)
        if not self._is_plain:
            return rows.rows.reshape(size, size, -1)[:, index]
        values = rows.rows.view(np.float32)
        if self._copies_parts or self._by_rows:
            return values.reshape(size, size, *sent)[:, index]
        return values.reshape(size, *sent[:-1], size, sent[-1])[..., index, :]


class DirectAllReduce:
    """Every member gathers all terms and adds them; for small tensors.

    Parameters
    ----------
    bench, wire, is_first, open_rows
        As in `DirectAllGather`.
    """

    def __init__(
        self, bench: Bench, wire: Wire, *, is_first: bool = True, open_rows: OpenRows = at_once
    ) -> None:
        self._bench, self._wire, self._is_first = bench, wire, is_first
        self._size = bench.plane(wire.axis).size
        self._rows: Table | None = None
        if self._size > 1:
            self._rows = open_rows(bench, wire, wire.sent_bytes)
        if self._rows is not None and wire.dtype is FLOAT32:
            self.term: F32 = self._rows.mine.view(np.float32).reshape(wire.sent)
        else:
            self.term = bench.array(*wire.sent)

    def cross(self) -> F32:
        """Add the exchange; return the sum, rounded: an array of its own."""
        bench, wire, rows = self._bench, self._wire, self._rows
        dtype = dtype_of(wire)
        if rows is None:
            round_in_place(bench, dtype, self.term)
            alone(bench, is_first=self._is_first)
            return self.term
        if dtype is not FLOAT32:
            bench.call(bench.codec(dtype, wire.sent).pack, self.term, rows.mine)
        cross_rows(bench, wire, rows, is_first=self._is_first)
        out = bench.array(*wire.sent)
        if dtype is FLOAT32:
            terms = rows.rows.view(np.float32).reshape(self._size, *wire.sent)
            add_rows(bench, terms, out)
        else:
            bench.call(bench.codec(dtype, wire.sent).add_terms, rows.rows, out)
            round_in_place(bench, dtype, out)
        return out
