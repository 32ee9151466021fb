"""An all-reduce as a reduce-scatter and an all-gather of its parts."""

from collections.abc import Callable
from dataclasses import replace
from math import prod

import numpy as np

from galaxy_mpi.arrays import F32
from galaxy_mpi.ccl.builder import Builder, Gather, Scatter
from galaxy_mpi.ccl.calls import dtype_of
from galaxy_mpi.ccl.direct import DirectAllGather, DirectAllReduce, DirectReduceScatter
from galaxy_mpi.ccl.wire import Wire
from galaxy_mpi.dtypes import FACE, FLOAT32

__all__ = ["SplitAllReduce", "direct_all_reduce", "part_of"]

WORTH_PARTS = 2**14
"""From this many values on, adding each part on one chip only is worth a second exchange."""


WORTH_CALLS = 2**16
"""From this many values of a part on, a call for each is less than copying all once more."""


class SplitAllReduce:
    """Every member adds the terms of one part, then parts are gathered: the same bits, less work.

    The tensor is split along its last dim at the ends of blocks that share an exponent, and padded
    with zeros if necessary.

    Parameters
    ----------
    builder, wire
        As in `DirectAllGather`.
    scatter, gather : callable
        Make the two halves, given (builder, wire), the first also with ``by_rows``
        and ``is_rounded``; `DirectReduceScatter` and `DirectAllGather` by default.
    is_flat : bool
        Whether the tensor is split as one row; for float32, where the split does not change bits.
    """

    def __init__(
        self,
        builder: Builder,
        wire: Wire,
        *,
        scatter: Callable[..., Scatter] = DirectReduceScatter,
        gather: Callable[..., Gather] = DirectAllGather,
        is_flat: bool = False,
    ) -> None:
        self._builder, self._wire = builder, wire
        size = self._size = builder.plane(wire.axis).size
        part, columns = part_of(wire, size, is_flat=is_flat), wire.sent[-1]
        rows, width = part.sent
        self._columns = prod(wire.sent) // rows
        self._scatter = scatter(builder, part, by_rows=False, is_rounded=False)
        self._gather = gather(builder, part)
        self._whole: F32 = self._scatter.term.reshape(rows, size * width)
        # A view: splitting rows of a matrix into more dims never copies.
        self.term: F32 = self._whole[:, : self._columns].reshape(wire.sent)
        assert columns == 0 or np.shares_memory(self.term, self._whole)

    def cross(self) -> F32:
        """Add both exchanges; return the rounded sum in a new array."""
        builder, wire, columns = self._builder, self._wire, self._columns
        if columns < self._whole.shape[1]:
            builder.call(self._whole[:, columns:].fill, 0)
        self._scatter.cross(self._gather.term)
        size, (rows, width) = self._size, self._gather.term.shape
        if columns == size * width and rows > 1 and rows * width >= WORTH_CALLS:
            out = builder.array(rows, columns)
            self._gather.cross(out.reshape(rows, size, width).swapaxes(0, 1))
            return out.reshape(wire.sent)
        parts: F32 = self._gather.cross()
        out = builder.array(rows, columns)
        if rows == 1:
            builder.call(np.copyto, out, parts.reshape(1, -1)[:, :columns])
        elif columns == size * width:
            builder.call(np.copyto, out.reshape(rows, size, width), parts.swapaxes(0, 1))
        else:
            for begin, part in zip(range(0, columns, width), parts, strict=False):
                end = min(begin + width, columns)
                builder.call(np.copyto, out[:, begin:end], part[:, : end - begin])
        return out.reshape(wire.sent)


def part_of(wire: Wire, size: int, *, is_flat: bool = False) -> Wire:
    """Return the wire of the parts into which `SplitAllReduce` splits a tensor."""
    rows = 1 if is_flat else prod(wire.sent[:-1])
    shape = rows, part_width(prod(wire.sent) // rows, size)
    return replace(wire, shape=shape, sent=shape)


def part_width(columns: int, size: int) -> int:
    """Return the width of a part: whole blocks that share an exponent."""
    return -(-columns // (FACE * size)) * FACE


def direct_all_reduce(builder: Builder, wire: Wire) -> DirectAllReduce | SplitAllReduce:
    """Return the faster of the two for a shape; the bits are the same."""
    size, columns = builder.plane(wire.axis).size, wire.sent[-1]
    if size > 1 and prod(wire.sent) >= WORTH_PARTS:
        if dtype_of(wire) is FLOAT32:
            return SplitAllReduce(builder, wire, is_flat=True)
        # Parts that are mostly padding would be more bytes, not fewer.
        if part_width(columns, size) * size < 2 * columns:
            return SplitAllReduce(builder, wire)
    return DirectAllReduce(builder, wire)
