"""Long tensors are sent in slabs of rows.

Rows are independent (an exponent is shared by 16 values of one row). A tensor (S, W) of a long
prompt is therefore sent in slabs of at most `SLAB_ROWS` rows, which reuse the same memory, so that
memory does not grow with the prompt.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from galaxy_mpi.arrays import F32
from galaxy_mpi.ccl.builder import Bound, Builder
from galaxy_mpi.ccl.calls import chunks_of, whole_shape
from galaxy_mpi.ccl.wire import Index, Kind, Wire

__all__ = ["SLAB_ROWS", "Slabs", "is_long", "slab_wires", "slabs_of"]

SLAB_ROWS = 2048
"""Rows per slab. Larger means fewer synchronisations, smaller means less memory; untuned."""

BindSlab = Callable[..., Bound]
"""Binds a collective, given (builder, wire, by_rows=...)."""


def is_long(wire: Wire) -> bool:
    """Return whether a tensor has more rows than a slab."""
    return len(wire.sent) == 2 and wire.sent[0] > SLAB_ROWS and not isinstance(wire.dtype, Index)


def slabs_of(
    builder: Builder,
    wire: Wire,
    bind: BindSlab,
    *,
    by_rows: bool = False,
    pieces: Sequence[slice] = (),
) -> Iterator[tuple[slice, Bound]]:
    """Yield row ranges with their collectives; write to each and cross it before the next.

    Parameters
    ----------
    pieces : sequence of slice, optional
        Adjacent row ranges that must not be split, at most `SLAB_ROWS` each.
    """
    for rows, slab in slab_wires(wire, pieces):
        yield rows, bind(builder, slab, by_rows=by_rows)


def slab_wires(wire: Wire, pieces: Sequence[slice] = ()) -> Iterator[tuple[slice, Wire]]:
    """Yield the row range and the wire of each slab."""
    for rows in _cut(wire.sent[0], pieces):
        shape = rows.stop - rows.start, wire.sent[1]
        yield rows, replace(wire, shape=shape, sent=shape)


def _cut(n_rows: int, pieces: Sequence[slice]) -> Iterator[slice]:
    """Yield the row range of each slab."""
    ends = [piece.stop for piece in pieces] or range(SLAB_ROWS, n_rows + SLAB_ROWS, SLAB_ROWS)
    start = stop = 0
    for end in ends:
        if end - start > SLAB_ROWS and stop > start:
            yield slice(start, stop)
            start = stop
        stop = min(end, n_rows)
    yield slice(start, stop)


class Slabs:
    """A collective of a long tensor (S, W), as one per slab.

    Parameters
    ----------
    builder, wire, by_rows
        As in `galaxy_mpi.ccl.direct.DirectReduceScatter`.
    bind : BindSlab
    """

    def __init__(self, builder: Builder, wire: Wire, bind: BindSlab, *, by_rows: bool) -> None:
        self._builder, self._wire, self._bind = builder, wire, bind
        self._by_rows = by_rows
        self._size = builder.plane(wire.axis).size
        scatters = wire.kind is Kind.REDUCE_SCATTER
        shape = whole_shape(wire, self._size, by_rows=by_rows) if scatters else wire.sent
        self.term = builder.array(*shape)

    def cross(self) -> F32:
        """Add the exchanges; return the whole result in a new array."""
        builder, wire = self._builder, self._wire
        gathers = wire.kind is Kind.ALL_GATHER
        out = builder.array(*((self._size,) if gathers else ()), *wire.sent)
        slabs = slabs_of(builder, wire, self._bind, by_rows=self._by_rows)
        for rows, slab in slabs:
            builder.call(np.copyto, *self._rows_of_term(slab.term, rows))
            builder.call(np.copyto, out[..., rows, :], slab.cross())
        return out

    def _rows_of_term(self, slab: F32, rows: slice) -> tuple[F32, F32]:
        """Return the term of a slab, and the matching rows of the whole term."""
        wire = self._wire
        if wire.kind is not Kind.REDUCE_SCATTER:
            return slab, self.term[rows]
        cut = replace(wire, sent=(rows.stop - rows.start, wire.sent[1]))
        by_rows, size = self._by_rows, self._size
        return (
            chunks_of(slab, cut, size, by_rows=by_rows),
            chunks_of(self.term, wire, size, by_rows=by_rows)[:, rows],
        )
