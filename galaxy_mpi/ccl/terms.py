"""Small reductions on a ring: all terms are passed on, and added where they arrive.

Hop by hop, an all-reduce has twice as many rounds as an all-gather, and with few values a round is
what takes time. So the unrounded terms are gathered, and every chip adds and rounds them as the
hops of a reduce-scatter would: the bits are the same.
"""

from math import prod

import numpy as np

from galaxy_mpi.arrays import F32
from galaxy_mpi.ccl.builder import Builder
from galaxy_mpi.ccl.calls import dtype_of, round_in_place
from galaxy_mpi.ccl.rows import OpenRows
from galaxy_mpi.ccl.split import part_width
from galaxy_mpi.ccl.wire import Wire
from galaxy_mpi.dtypes import FLOAT32
from galaxy_mpi.mesh.plane import Table

__all__ = ["TermsAllReduce"]


class TermsAllReduce:
    """Every member gathers all terms, and adds each part of them in the order of a ring's hops.

    The tensor is split as `galaxy_mpi.ccl.split.SplitAllReduce` splits it: the sum of a part begins
    behind its owner and ends with it.

    Parameters
    ----------
    builder, wire, open_rows
        As in `galaxy_mpi.ccl.direct.DirectAllGather`.
    """

    def __init__(self, builder: Builder, wire: Wire, *, open_rows: OpenRows) -> None:
        self._builder, self._wire = builder, wire
        size = self._size = builder.plane(wire.axis).size
        self._columns, n_rows = wire.sent[-1], prod(wire.sent[:-1])
        self._width = part_width(self._columns, size)
        self._rows: Table | None = None
        if size > 1:
            n_bytes = FLOAT32.packed_bytes((n_rows, size * self._width))
            self._rows = open_rows(builder, wire, n_bytes)
            self._whole: F32 = self._rows.mine.view(np.float32).reshape(n_rows, -1)
        else:
            self._whole = builder.array(n_rows, size * self._width)
        self.term: F32 = self._whole[:, : self._columns].reshape(wire.sent, copy=False)

    def cross(self) -> F32:
        """Add the exchange; return the rounded sum in a new array."""
        builder, wire, rows, columns = self._builder, self._wire, self._rows, self._columns
        if columns < self._whole.shape[1]:
            builder.call(self._whole[:, columns:].fill, 0)
        total = self._whole
        if rows is not None:
            builder.cross(rows.crossing)
            total = self._add(rows)
        round_in_place(builder, dtype_of(wire), total)
        if columns == total.shape[1]:
            return total.reshape(wire.sent)
        out = builder.array(*wire.sent)
        builder.call(np.copyto, out, total[:, :columns].reshape(wire.sent))
        return out

    def _add(self, rows: Table) -> F32:
        """Add the calls that sum the terms; return the array of the sum."""
        builder, dtype, size = self._builder, dtype_of(self._wire), self._size
        n_rows, n_columns = self._whole.shape
        terms = rows.rows.view(np.float32).reshape(size * n_rows * size, self._width)
        assert np.shares_memory(terms, rows.rows)
        # Of every part: the term that its sum begins with, the next, and so on.
        ordered = builder.array(size, n_rows, n_columns)
        step, row, owner = np.ogrid[:size, :n_rows, :size]
        order = (((owner + 1 + step) % size) * n_rows + row) * size + owner
        into = ordered.reshape(*order.shape, self._width)
        builder.call(terms.take, order, 0, into, "clip")
        total = builder.array(n_rows, n_columns)
        if dtype is FLOAT32:
            builder.call(np.add.reduce, ordered, 0, None, total)
            return total
        round_ = builder.codec(dtype, total.shape).round
        builder.call(round_, ordered[0], total)
        for number in range(1, size):
            builder.call(np.add, total, ordered[number], total)
            if number < size - 1:
                builder.call(round_, total, total)
        return total
