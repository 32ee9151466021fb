"""The collectives of prefill: hop by hop over ring or line, in slabs of rows.

A partial sum is packed at every hop. Rows do not know of each other (an exponent belongs to 16
values of one row), so a long tensor travels in slabs of at most `SLAB_ROWS` rows through the same
persistent buffers, which so have a bound that does not grow with the prompt. The last slab is
padded with zeros to a power of two, so that few sizes serve all lengths.
"""

from collections.abc import Iterator

import numpy as np

from galaxy_mpi.arrays import F32
from galaxy_mpi.ccl.buffers import Buffers, PersistentBuffers
from galaxy_mpi.ccl.ccl import CCL, Gathering, Note, Reduction, Wiring
from galaxy_mpi.ccl.collectives import AllGather, AllReduce, ReduceScatter
from galaxy_mpi.ccl.gathered import GatheredBlocks
from galaxy_mpi.ccl.stamps import Stamper
from galaxy_mpi.ccl.topology import Ring
from galaxy_mpi.dtypes import DType
from galaxy_mpi.mesh import Axis, Group, Transport

__all__ = ["SLAB_ROWS", "PrefillCCL"]

SLAB_ROWS = 2048
"""Most rows that travel at once: more save hand-overs, fewer save memory (assumed)."""

_LEAST_ROWS = 32


class PrefillCCL(CCL):
    """Collectives of long sequences. Tensors are (S, W); leading dims of one row are one row.

    Parameters
    ----------
    transport : Transport
    scatter : callable
        `Ring` or `Line`: how partial sums travel.
    gather : callable, optional
        The same for blocks; by default they go to everybody at once: the bits are the same.
    num_links, clock, note, buffers
        As in `CCL`.

    References
    ----------
    .. [1] tt-metal, llama_ccl.py, ``TT_CCL.ring_reduce_scatter``, ``ring_all_gather``.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        scatter: Wiring = Ring,
        gather: Wiring | None = None,
        num_links: int = 4,
        clock: Stamper | None = None,
        note: Note | None = None,
        buffers: type[Buffers] = PersistentBuffers,
    ) -> None:
        super().__init__(transport, num_links=num_links, clock=clock, note=note, buffers=buffers)
        self._scatter, self._gather = scatter, gather

    def gather_slabs(
        self, values_SW: F32, *, axis: Axis, dtype: DType, key: str, stamped: bool = True
    ) -> Iterator[tuple[slice, F32]]:
        """Yield rows and every member's values of these rows, (size, rows, W), slab by slab."""
        for rows, n_sent in _slabs(len(values_SW)):
            sent, first = _with_rows(values_SW[rows], 0, n_sent), stamped and rows.start == 0
            gathered = super().all_gather(sent, axis=axis, dtype=dtype, key=key, stamped=first)
            yield rows, gathered[:, : rows.stop - rows.start]

    def all_gather(
        self, values: F32, *, axis: Axis, dtype: DType, key: str, stamped: bool = True
    ) -> F32:
        """Return every member's values, rounded to ``dtype``: a new array (size, S, W)."""
        gathered = np.empty((self.size(axis), *values.shape), np.float32)
        slabs = self.gather_slabs(values, axis=axis, dtype=dtype, key=key, stamped=stamped)
        for rows, slab in slabs:
            gathered[:, rows] = slab
        return gathered

    def reduce_scatter(
        self, chunks: F32, *, axis: Axis, dtype: DType, key: str, stamped: bool = True
    ) -> F32:
        """Return the sum of this chip's chunk of ``chunks`` (size, S, W): a new array (S, W)."""
        total = np.empty(chunks.shape[1:], np.float32)
        for rows, n_sent in _slabs(len(total)):
            sent, first = _with_rows(chunks[:, rows], 1, n_sent), stamped and rows.start == 0
            slab = super().reduce_scatter(sent, axis=axis, dtype=dtype, key=key, stamped=first)
            total[rows] = slab[: rows.stop - rows.start]
        return total

    def all_reduce(
        self, values: F32, *, axis: Axis, dtype: DType, key: str, stamped: bool = True
    ) -> F32:
        """Return the sum over the members: a new array (S, W)."""
        total = np.empty(values.shape, np.float32)
        for rows, n_sent in _slabs(len(values)):
            sent, first = _with_rows(values[rows], 0, n_sent), stamped and rows.start == 0
            slab = super().all_reduce(sent, axis=axis, dtype=dtype, key=key, stamped=first)
            total[rows] = slab[: rows.stop - rows.start]
        return total

    def _make_all_gather(
        self, group: Group, n_bytes: int, *, num_links: int, label: str
    ) -> Gathering:
        if self._gather is None:
            return GatheredBlocks(group, n_bytes, num_links=num_links, label=label)
        wires = self._gather(group.size)
        return AllGather(group, wires, n_bytes, num_links=num_links, label=label)

    def _make_reduce_scatter(
        self, group: Group, shape: tuple[int, ...], dtype: DType, *, num_links: int, label: str
    ) -> Reduction:
        wires = self._scatter(group.size)
        return ReduceScatter(group, wires, shape, dtype, num_links=num_links, label=label)

    def _make_all_reduce(
        self, group: Group, shape: tuple[int, ...], dtype: DType, *, num_links: int, label: str
    ) -> Reduction:
        scatter = self._scatter(group.size)
        gather = None if self._gather is None else self._gather(group.size)
        return AllReduce(group, scatter, gather, shape, dtype, num_links=num_links, label=label)


def _slabs(n_rows: int) -> Iterator[tuple[slice, int]]:
    """Yield the rows of each slab, and with how many it is sent."""
    for start in range(0, n_rows, SLAB_ROWS):
        stop = min(start + SLAB_ROWS, n_rows)
        yield slice(start, stop), max(_LEAST_ROWS, 1 << (stop - start - 1).bit_length())


def _with_rows(values: F32, dim: int, n_rows: int) -> F32:
    """Return ``values`` with zeros behind them, ``n_rows`` along ``dim``."""
    if values.shape[dim] == n_rows:
        return values
    shape = [*values.shape[:dim], n_rows - values.shape[dim], *values.shape[dim + 1 :]]
    return np.concatenate([values, np.zeros(shape, np.float32)], axis=dim)
