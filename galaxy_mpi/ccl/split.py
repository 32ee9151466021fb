"""An all-reduce as a reduce-scatter and an all-gather of its parts."""

from collections.abc import Callable
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np

from galaxy_mpi.arrays import F32
from galaxy_mpi.ccl.bench import Bench
from galaxy_mpi.ccl.calls import dtype_of
from galaxy_mpi.ccl.direct import DirectAllGather, DirectAllReduce, DirectReduceScatter
from galaxy_mpi.ccl.wire import Wire
from galaxy_mpi.dtypes import FACE, FLOAT32

__all__ = ["SplitAllReduce", "direct_all_reduce"]

WORTH_PARTS = 2**14
"""Values of a tensor from which adding them on one chip only is worth another crossing."""


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
    is_flat : bool
        Whether the tensor is cut as one row: for float32, where no order depends on the cut.
    """

    def __init__(
        self,
        bench: Bench,
        wire: Wire,
        *,
        is_first: bool = True,
        scatter: Callable[..., Any] = DirectReduceScatter,
        gather: Callable[..., Any] = DirectAllGather,
        is_flat: bool = False,
    ) -> None:
        self._bench, self._wire, self._is_first = bench, wire, is_first
        size = self._size = bench.plane(wire.axis).size
        rows, columns = (1 if is_flat else prod(wire.sent[:-1])), wire.sent[-1]
        self._columns = prod(wire.sent) // rows
        width = part_width(self._columns, size)
        part = replace(wire, shape=(rows, width), sent=(rows, width))
        self._scatter = scatter(bench, part, by_rows=False, is_rounded=False, is_first=is_first)
        # The device charges both halves where the first begins.
        self._gather = gather(bench, part, is_first=False)
        self._whole: F32 = self._scatter.term.reshape(rows, size * width)
        # A view: cutting the rows of a matrix into more dims never copies.
        self.term: F32 = self._whole[:, : self._columns].reshape(wire.sent)
        assert columns == 0 or np.shares_memory(self.term, self._whole)

    def cross(self) -> F32:
        """Add both exchanges; return the sum, rounded: an array of its own."""
        bench, wire, columns = self._bench, self._wire, self._columns
        if columns < self._whole.shape[1]:
            bench.call(self._whole[:, columns:].fill, 0)
        self._scatter.cross(self._gather.term)
        parts: F32 = self._gather.cross()
        size, rows, width = parts.shape
        out = bench.array(rows, columns)
        if rows == 1:
            bench.call(np.copyto, out, parts.reshape(1, -1)[:, :columns])
        elif columns == size * width:
            bench.call(np.copyto, out.reshape(rows, size, width), parts.swapaxes(0, 1))
        else:
            for begin, part in zip(range(0, columns, width), parts, strict=False):
                end = min(begin + width, columns)
                bench.call(np.copyto, out[:, begin:end], part[:, : end - begin])
        return out.reshape(wire.sent)


def part_width(columns: int, size: int) -> int:
    """Return the columns of a part: whole blocks of values that share an exponent."""
    return -(-columns // (FACE * size)) * FACE


def direct_all_reduce(
    bench: Bench, wire: Wire, *, is_first: bool = True
) -> DirectAllReduce | SplitAllReduce:
    """Return the quickest for a shape; the bits are the same."""
    size, columns = bench.plane(wire.axis).size, wire.sent[-1]
    if size > 1 and prod(wire.sent) >= WORTH_PARTS:
        if dtype_of(wire) is FLOAT32:
            return SplitAllReduce(bench, wire, is_first=is_first, is_flat=True)
        # Parts that are mostly padding would be more bytes, not fewer.
        if part_width(columns, size) * size < 2 * columns:
            return SplitAllReduce(bench, wire, is_first=is_first)
    return DirectAllReduce(bench, wire, is_first=is_first)
