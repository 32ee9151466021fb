"""Single-step collectives: write to a shared table, one barrier, all read.

The fabric routes, so a chip writes straight to any other chip. In reductions each term is rounded
when it is packed, and the sum once at the end. Terms are added in the order of the members, so all
chips that add the same terms get the same bits.

Blocks that go to all members may also be passed on hop by hop (`OpenRows`).

A group of one chip exchanges nothing; its term is only rounded.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import DTypeLike

from galaxy_mpi.arrays import F32, Array
from galaxy_mpi.ccl.builder import Builder
from galaxy_mpi.ccl.calls import (
    add_rows,
    chunks_of,
    dtype_of,
    pack_chunks,
    round_in_place,
    unpack_rows,
    whole_shape,
)
from galaxy_mpi.ccl.rows import OpenRows, at_once
from galaxy_mpi.ccl.wire import Index, Wire
from galaxy_mpi.dtypes import FLOAT32, DType
from galaxy_mpi.mesh.plane import Table

__all__ = ["AddTerms", "DirectAllGather", "DirectAllReduce", "DirectReduceScatter"]

AddTerms = Callable[[Builder, Array, Wire, F32], None]
"""Adds the calls with which an owner sums its chunk, given (builder, terms, wire, out)."""


class DirectAllGather:
    """Every member receives every member's block: ``sent`` to ``(size, *sent)``.

    Parameters
    ----------
    builder : Builder
    wire : Wire
    open_rows : OpenRows
        How blocks get to all members.
    """

    def __init__(self, builder: Builder, wire: Wire, *, open_rows: OpenRows = at_once) -> None:
        self._builder, self._wire = builder, wire
        self._size = builder.plane(wire.axis).size
        self._rows: Table | None = None
        self._is_plain = isinstance(wire.dtype, Index) or wire.dtype is FLOAT32
        item: DTypeLike = np.float32
        if isinstance(wire.dtype, Index):
            item = f"u{wire.dtype.n_bytes}"
        self.term: Array
        if self._size > 1:
            self._rows = open_rows(builder, wire, wire.sent_bytes)
        if self._rows is not None and self._is_plain:
            self.term = self._rows.mine.view(item).reshape(wire.sent)
        elif isinstance(wire.dtype, Index):
            self.term = np.empty(wire.sent, item)
        else:
            self.term = builder.array(*wire.sent)

    def cross(self, out: Array | None = None) -> Array:
        """Add the exchange; return (size, *sent), values of the wire's format.

        They are in ``out`` if it is given; its rows may lie apart.
        """
        builder, wire, rows = self._builder, self._wire, self._rows
        if rows is None:
            if not self._is_plain:
                round_in_place(builder, dtype_of(wire), self.term)
            if out is None:
                return self.term[None]
            builder.call(np.copyto, out, self.term[None])
            return out
        if self._is_plain:
            builder.cross(rows.crossing)
            blocks = rows.rows.view(self.term.dtype).reshape(self._size, *wire.sent)
            if out is not None:
                builder.call(np.copyto, out, blocks)
                return out
            if rows.rows.flags.c_contiguous:
                return blocks
            # Readers rely on contiguous blocks.
            out = np.empty_like(blocks, order="C")
            if not isinstance(wire.dtype, Index):
                out = builder.array(*blocks.shape)
            builder.call(np.copyto, out, blocks)
            return out
        dtype = dtype_of(wire)
        builder.call(builder.codec(dtype, wire.sent).pack, self.term, rows.mine)
        builder.cross(rows.crossing)
        if out is None:
            out = builder.array(self._size, *wire.sent)
        unpack_rows(builder, dtype, rows.rows, out)
        return out


class DirectReduceScatter:
    """The owner of a chunk receives all terms of it.

    The term is the whole tensor as an op makes it, with chunks along its last dim or its first.

    Parameters
    ----------
    builder, wire
        As in `DirectAllGather`.
    by_rows : bool
        Whether chunks are rows of the term, (size * r, ...), or columns, (..., size * w).
    is_rounded : bool
        Whether the sum is rounded; unnecessary if it is packed next.
    travels : DType, optional
        Format in which terms are sent to the owner; the wire's by default.
    add : AddTerms, optional
        How the owner adds the terms, given as (size, *sent) in float32, else as packed rows
        (size, n_bytes). By default in the order of the members.
    open_rows : OpenRows, optional
        How whole terms get to all members; by default each owner gets its part at once.
    """

    def __init__(
        self,
        builder: Builder,
        wire: Wire,
        *,
        by_rows: bool,
        is_rounded: bool = True,
        travels: DType | None = None,
        add: AddTerms | None = None,
        open_rows: OpenRows | None = None,
    ) -> None:
        self._builder, self._wire, self._by_rows = builder, wire, by_rows
        self._is_rounded, self._add = is_rounded, add
        self._travels = dtype_of(wire) if travels is None else travels
        plane = builder.plane(wire.axis)
        size = self._size = plane.size
        self._rows: Table | None = None
        whole = whole_shape(wire, size, by_rows=by_rows)
        self._is_plain = self._travels is FLOAT32
        # Parts that are sent separately must be contiguous; in shared memory, columns stay in
        # place.
        self._copies_parts = not (by_rows or plane.shares_memory or open_rows)
        if size > 1:
            n_bytes = size * self._travels.packed_bytes(wire.sent)
            if open_rows is None:
                self._rows = at_once(builder, wire, n_bytes, in_parts=True)
            else:
                self._rows = open_rows(builder, wire, n_bytes)
        if self._rows is not None and self._is_plain and not self._copies_parts:
            self.term: F32 = self._rows.mine.view(np.float32).reshape(whole)
        else:
            self.term = builder.array(*whole)

    def cross(self, out: F32 | None = None) -> F32:
        """Add the exchange; return this chip's chunk of the sum, in ``out`` if given."""
        builder, wire, rows, size = self._builder, self._wire, self._rows, self._size
        dtype = dtype_of(wire)
        if rows is None:
            if out is None:
                out = self.term
            else:
                builder.call(np.copyto, out, self.term)
        else:
            chunks = chunks_of(self.term, wire, size, by_rows=self._by_rows)
            if not self._is_plain:
                pack_chunks(builder, self._travels, chunks, rows.mine.reshape(size, -1))
            elif self._copies_parts:
                parts = rows.mine.view(np.float32).reshape(size, *wire.sent)
                builder.call(np.copyto, parts, chunks)
            builder.cross(rows.crossing)
            out = builder.array(*wire.sent) if out is None else out
            terms = self._terms(rows)
            if self._add is not None:
                self._add(builder, terms, wire, out)
            elif self._is_plain:
                add_rows(builder, terms, out)
            else:
                builder.call(builder.codec(dtype, wire.sent).add_terms, terms, out)
        if self._is_rounded:
            round_in_place(builder, dtype, out)
        return out

    def _terms(self, rows: Table) -> Array:
        """Return every member's term of this chip's chunk."""
        size, sent, index = self._size, self._wire.sent, self._builder.index(self._wire.axis)
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
    builder, wire, open_rows
        As in `DirectAllGather`.
    """

    def __init__(self, builder: Builder, wire: Wire, *, open_rows: OpenRows = at_once) -> None:
        self._builder, self._wire = builder, wire
        self._size = builder.plane(wire.axis).size
        self._rows: Table | None = None
        if self._size > 1:
            self._rows = open_rows(builder, wire, wire.sent_bytes)
        if self._rows is not None and wire.dtype is FLOAT32:
            self.term: F32 = self._rows.mine.view(np.float32).reshape(wire.sent)
        else:
            self.term = builder.array(*wire.sent)

    def cross(self) -> F32:
        """Add the exchange; return the rounded sum in a new array."""
        builder, wire, rows = self._builder, self._wire, self._rows
        dtype = dtype_of(wire)
        if rows is None:
            round_in_place(builder, dtype, self.term)
            return self.term
        if dtype is not FLOAT32:
            builder.call(builder.codec(dtype, wire.sent).pack, self.term, rows.mine)
        builder.cross(rows.crossing)
        out = builder.array(*wire.sent)
        if dtype is FLOAT32:
            terms = rows.rows.view(np.float32).reshape(self._size, *wire.sent)
            add_rows(builder, terms, out)
        else:
            builder.call(builder.codec(dtype, wire.sent).add_terms, rows.rows, out)
            round_in_place(builder, dtype, out)
        return out
