"""The collectives of prefill: hop by hop over ring or line, in slabs of rows.

A partial sum is packed at every hop. Rows do not know of each other (an exponent belongs to 16
values of one row), so a long tensor travels in slabs of `SLAB_ROWS` rows through the same
persistent buffers, which so have a bound that does not grow with the prompt.
"""

from collections.abc import Iterator

import numpy as np

from galaxy_mpi.arrays import F32
from galaxy_mpi.ccl.ccl import CCL, Reduction, Wiring
from galaxy_mpi.ccl.collectives import AllReduce, ReduceScatter
from galaxy_mpi.ccl.topology import Ring
from galaxy_mpi.dtypes import DType
from galaxy_mpi.mesh import Axis, Group, Transport

__all__ = ["SLAB_ROWS", "PrefillCCL"]

SLAB_ROWS = 2048
"""Rows of a tensor that travel at once: more save hand-overs, fewer save memory (assumed)."""


class PrefillCCL(CCL):
    """Collectives of long sequences. Tensors are (S, W); leading dims of one row are one row.

    Parameters
    ----------
    transport : Transport
    scatter, gather : callable
        `Ring` or `Line`: how partial sums and blocks travel.
    num_links : int
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
        gather: Wiring = Ring,
        num_links: int = 4,
    ) -> None:
        super().__init__(transport, gather=gather, num_links=num_links)
        self._scatter = scatter

    def gather_slabs(
        self, values_SW: F32, *, axis: Axis, dtype: DType, key: str
    ) -> Iterator[tuple[slice, F32]]:
        """Yield rows and every member's values of these rows, (size, rows, W), slab by slab."""
        for rows in _slabs(len(values_SW)):
            yield rows, super().all_gather(values_SW[rows], axis=axis, dtype=dtype, key=key)

    def all_gather(self, values: F32, *, axis: Axis, dtype: DType, key: str) -> F32:
        """Return every member's values, rounded to ``dtype``: a new array (size, S, W)."""
        if len(values) <= SLAB_ROWS:
            return super().all_gather(values, axis=axis, dtype=dtype, key=key)
        gathered = np.empty((self.size(axis), *values.shape), np.float32)
        for rows, slab in self.gather_slabs(values, axis=axis, dtype=dtype, key=key):
            gathered[:, rows] = slab
        return gathered

    def reduce_scatter(self, chunks: F32, *, axis: Axis, dtype: DType, key: str) -> F32:
        """Return the sum of this chip's chunk of ``chunks`` (size, S, W): a new array (S, W)."""
        total = np.empty(chunks.shape[1:], np.float32)
        for rows in _slabs(len(total)):
            total[rows] = super().reduce_scatter(chunks[:, rows], axis=axis, dtype=dtype, key=key)
        return total

    def all_reduce(self, values: F32, *, axis: Axis, dtype: DType, key: str) -> F32:
        """Return the sum over the members: a new array (S, W)."""
        total = np.empty(values.shape, np.float32)
        for rows in _slabs(len(values)):
            total[rows] = super().all_reduce(values[rows], axis=axis, dtype=dtype, key=key)
        return total

    def _make_reduce_scatter(
        self, group: Group, shape: tuple[int, ...], dtype: DType, *, num_links: int, label: str
    ) -> Reduction:
        wires = self._scatter(group.size)
        return ReduceScatter(group, wires, shape, dtype, num_links=num_links, label=label)

    def _make_all_reduce(
        self, group: Group, shape: tuple[int, ...], dtype: DType, *, num_links: int, label: str
    ) -> Reduction:
        wires = self._scatter(group.size), self._gather(group.size)
        return AllReduce(group, *wires, shape, dtype, num_links=num_links, label=label)


def _slabs(n_rows: int) -> Iterator[slice]:
    for start in range(0, n_rows, SLAB_ROWS):
        yield slice(start, min(start + SLAB_ROWS, n_rows))
