"""Decode and prefill: what ops that end a block, with wo or w2, have in common."""

from galaxy_mpi.ccl.wire import BufferKey
from galaxy_mpi.dtypes import DType
from galaxy_mpi.program import Cuts, Tensor
from galaxy_mpi.systems.ops.base import SystemOp
from galaxy_mpi.systems.site import Site
from galaxy_mpi.weights import Weight, WeightId

__all__ = ["BlockEnd"]


class BlockEnd(SystemOp):
    """A matmul whose products are summed over the rows.

    Parameters
    ----------
    site : Site
    weight : Weight
        `Weight.WO` or `Weight.W2`; the op has its name.
    """

    def __init__(self, site: Site, weight: Weight) -> None:
        super().__init__(site, name=str(weight))
        self.weight = weight
        is_attentions, formats = weight is Weight.WO, self.formats
        self._key = BufferKey.WO if is_attentions else BufferKey.FF2
        self._product: DType = formats.wo_product if is_attentions else formats.w2_product
        """Format of a product."""
        self._summed: DType = formats.wo_sum if is_attentions else formats.w2_sum
        """Format of the terms that are sent and of their sum."""

    def __call__(self, x: Tensor) -> Tensor:
        """Return the block's output, (B, D/C) or (S, D/C), the same on all rows."""
        inputs = (x, WeightId(x.program.layer, self.weight))
        (out,) = self.record(x.program, inputs, out=(self.rows, self.shape.stream))
        return out

    def cuts(self) -> Cuts:
        """Return the sharding of its outputs."""
        return {"out": self.stream_cut}
