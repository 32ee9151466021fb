"""The collectives of a system that has each as an op of its own: hop by hop, buffers per call.

A group of one chip skips its collectives. Decode's all-reduce gathers all terms and adds them
once; that of prefill is a reduce-scatter and an all-gather, because long tensors would not fit
eight times.
"""

from galaxy_mpi.arrays import F32, Bytes
from galaxy_mpi.ccl.buffers import Buffers, BuffersPerCall
from galaxy_mpi.ccl.ccl import Note, Reduction, Wiring
from galaxy_mpi.ccl.collectives import GatherAndAdd
from galaxy_mpi.ccl.prefill_ccl import PrefillCCL
from galaxy_mpi.ccl.stamps import Stamper
from galaxy_mpi.ccl.topology import Line
from galaxy_mpi.dtypes import DType
from galaxy_mpi.mesh import Axis, Group, Transport

__all__ = ["SeparateCCL", "SeparateDecodeCCL"]


class SeparateCCL(PrefillCCL):
    """Collectives of prefill.

    Parameters
    ----------
    transport, scatter, gather, num_links, clock, note, buffers
        As in `PrefillCCL`, with other defaults.

    References
    ----------
    .. [1] tt-metal, models/tt_transformers/tt/ccl.py, ``tt_all_reduce``, ``tt_all_gather``.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        scatter: Wiring = Line,
        gather: Wiring = Line,
        num_links: int = 4,
        clock: Stamper | None = None,
        note: Note | None = None,
        buffers: type[Buffers] = BuffersPerCall,
    ) -> None:
        self._wiring = gather
        super().__init__(
            transport,
            scatter=scatter,
            gather=gather,
            num_links=num_links,
            clock=clock,
            note=note,
            buffers=buffers,
        )

    def all_gather_bytes(
        self, block: Bytes, *, axis: Axis, key: str, stamped: bool = True
    ) -> Bytes:
        """Return every member's block; see `CCL.all_gather_bytes`."""
        if self.size(axis) == 1:
            return block[None]
        return super().all_gather_bytes(block, axis=axis, key=key, stamped=stamped)

    def all_gather(
        self, values: F32, *, axis: Axis, dtype: DType, key: str, stamped: bool = True
    ) -> F32:
        """Return every member's values; see `PrefillCCL.all_gather`."""
        if self.size(axis) == 1:
            return dtype.round(values)[None]
        return super().all_gather(values, axis=axis, dtype=dtype, key=key, stamped=stamped)

    def reduce_scatter(
        self, chunks: F32, *, axis: Axis, dtype: DType, key: str, stamped: bool = True
    ) -> F32:
        """Return the sum of this chip's chunk; see `PrefillCCL.reduce_scatter`."""
        if self.size(axis) == 1:
            return dtype.round(chunks[0])
        return super().reduce_scatter(chunks, axis=axis, dtype=dtype, key=key, stamped=stamped)

    def all_reduce(
        self, values: F32, *, axis: Axis, dtype: DType, key: str, stamped: bool = True
    ) -> F32:
        """Return the sum over the members; see `PrefillCCL.all_reduce`."""
        if self.size(axis) == 1:
            return dtype.round(values)
        return super().all_reduce(values, axis=axis, dtype=dtype, key=key, stamped=stamped)


class SeparateDecodeCCL(SeparateCCL):
    """Collectives of decode; parameters as in `SeparateCCL`."""

    def _make_all_reduce(
        self, group: Group, shape: tuple[int, ...], dtype: DType, *, num_links: int, label: str
    ) -> Reduction:
        wires = self._wiring(group.size)
        return GatherAndAdd(group, wires, shape, dtype, num_links=num_links, label=label)
