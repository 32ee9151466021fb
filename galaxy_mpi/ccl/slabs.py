"""Long tensors travel in slabs of rows.

Rows do not know of each other (an exponent belongs to 16 values of one row), so a tensor (S, W) of
a long prompt travels in slabs of at most `SLAB_ROWS` rows through the same memory, which so does
not grow with the prompt.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from galaxy_mpi.arrays import F32
from galaxy_mpi.ccl.bench import Bench, Bound
from galaxy_mpi.ccl.calls import chunks_of, whole_shape
from galaxy_mpi.ccl.wire import Index, Kind, Wire

__all__ = ["SLAB_ROWS", "Slabs", "is_long", "slabs_of"]

SLAB_ROWS = 2048
"""Most rows that travel at once: more save crossings, fewer save memory (assumed)."""

BindSlab = Callable[..., Bound]
"""Binds a collective, given (bench, wire, by_rows=..., is_first=...)."""


def is_long(wire: Wire) -> bool:
    """Return whether a tensor has more rows than travel at once."""
    return len(wire.sent) == 2 and wire.sent[0] > SLAB_ROWS and not isinstance(wire.dtype, Index)


def slabs_of(
    bench: Bench,
    wire: Wire,
    bind: BindSlab,
    *,
    by_rows: bool = False,
    is_first: bool = True,
    pieces: Sequence[slice] = (),
) -> Iterator[tuple[slice, Bound]]:
    """Yield rows and the collective of these rows: to be written to and crossed before the next.

    Device time passes with the first.

    Parameters
    ----------
    pieces : sequence of slice, optional
        Rows that are not cut, side by side, at most `SLAB_ROWS` each.
    """
    for rows in _cut(wire.sent[0], pieces):
        shape = rows.stop - rows.start, wire.sent[1]
        slab = replace(wire, shape=shape, sent=shape)
        yield rows, bind(bench, slab, by_rows=by_rows, is_first=is_first and rows.start == 0)


def _cut(n_rows: int, pieces: Sequence[slice]) -> Iterator[slice]:
    """Yield the most rows that may travel at once, then the next."""
    ends = [piece.stop for piece in pieces] or range(SLAB_ROWS, n_rows + SLAB_ROWS, SLAB_ROWS)
    start = stop = 0
    for end in ends:
        if end - start > SLAB_ROWS and stop > start:
            yield slice(start, stop)
            start = stop
        stop = min(end, n_rows)
    yield slice(start, stop)


class Slabs:
    """A collective of a long tensor (S, W), as one a slab.

    Parameters
    ----------
    bench, wire, by_rows, is_first
        As in `galaxy_mpi.ccl.direct.DirectReduceScatter`.
    bind : BindSlab
    """

    def __init__(
        self, bench: Bench, wire: Wire, bind: BindSlab, *, by_rows: bool, is_first: bool
    ) -> None:
        self._bench, self._wire, self._bind = bench, wire, bind
        self._by_rows, self._is_first = by_rows, is_first
        self._size = bench.plane(wire.axis).size
        scatters = wire.kind is Kind.REDUCE_SCATTER
        shape = whole_shape(wire, self._size, by_rows=by_rows) if scatters else wire.sent
        self.term = bench.array(*shape)

    def cross(self) -> F32:
        """Add the exchanges; return the whole result: an array of its own."""
        bench, wire = self._bench, self._wire
        gathers = wire.kind is Kind.ALL_GATHER
        out = bench.array(*((self._size,) if gathers else ()), *wire.sent)
        slabs = slabs_of(bench, wire, self._bind, by_rows=self._by_rows, is_first=self._is_first)
        for rows, slab in slabs:
            bench.call(np.copyto, *self._rows_of_term(slab.term, rows))
            bench.call(np.copyto, out[..., rows, :], slab.cross())
        return out

    def _rows_of_term(self, slab: F32, rows: slice) -> tuple[F32, F32]:
        """Return the term of a slab and the rows of the whole term that belong there."""
        wire = self._wire
        if wire.kind is not Kind.REDUCE_SCATTER:
            return slab, self.term[rows]
        cut = replace(wire, sent=(rows.stop - rows.start, wire.sent[1]))
        by_rows, size = self._by_rows, self._size
        return (
            chunks_of(slab, cut, size, by_rows=by_rows),
            chunks_of(self.term, wire, size, by_rows=by_rows)[:, rows],
        )
