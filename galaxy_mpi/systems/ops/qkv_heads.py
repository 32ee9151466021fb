"""Decode: the qkv matmul, summed over the columns; each column keeps the heads of its users."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from galaxy_mpi.arrays import F32
from galaxy_mpi.ccl.wire import BufferKey, Kind, Wire
from galaxy_mpi.mesh import Axis
from galaxy_mpi.program import Charge, Cuts, Kernel, Matrix, Tensor
from galaxy_mpi.systems.chip import ChipBinder
from galaxy_mpi.systems.ops.base import SystemOp
from galaxy_mpi.systems.ops.reduce import gather_and_add_charges
from galaxy_mpi.weights import Vector, VectorId, Weight, WeightId

if TYPE_CHECKING:
    from galaxy_mpi.timing.costs import Costs

__all__ = ["FusedQkvHeads", "QkvHeads", "product_with_bias", "qkv_inputs", "split_heads"]

Heads = tuple[F32, F32, F32]


def qkv_inputs(op: SystemOp, h: Tensor) -> tuple[Tensor, WeightId, VectorId | None]:
    """Return what the matmul reads; the bias is None if the model has none."""
    layer = h.program.layer
    bias = VectorId(layer, Vector.QKV_BIAS) if op.shape.has_qkv_bias else None
    return h, WeightId(layer, Weight.WQKV), bias


def split_heads(op: SystemOp, qkv_BX: F32) -> Heads:
    """Return q (B, N, H), k (B, K, H), v (B, K, H): views."""
    shape = op.shape
    heads = qkv_BX.reshape(len(qkv_BX), -1, shape.head_dim)
    cut = shape.heads + shape.kv_heads
    return heads[:, : shape.heads], heads[:, shape.heads : cut], heads[:, cut:]


def product_with_bias(
    chip: ChipBinder, op: SystemOp, h: F32, wqkv: WeightId, bias: VectorId | None, out: F32
) -> None:
    """Bind the matmul. The bias is zero except on one column, so that it is added once.

    Another op adds it, which reads the stored product.
    """
    chip.matmul(op.site, h, wqkv, out)
    product = op.formats.qkv_product
    if bias is not None:
        chip.round(product, out)
        chip.call(np.add, out, chip.vector(bias), out)
    if op.site.work is not None or product is not op.formats.qkv_sum:
        chip.round(product, out)


class QkvHeads(SystemOp):
    """Generic: matmul, all-reduce, selection of this column's users, their heads."""

    name = "qkv_heads"

    def __call__(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return q (B/C, N/R, H), k and v (B/C, K/R, H) of this column's users."""
        s = self.shape
        n, kv = (s.users_each, s.heads, s.head_dim), (s.users_each, s.kv_heads, s.head_dim)
        q, k, v = self.record(h.program, qkv_inputs(self, h), q=n, k=kv, v=kv)
        return q, k, v

    def cuts(self) -> Cuts:
        """Return the sharding of its outputs."""
        return dict.fromkeys(("q", "k", "v"), self.heads_cut)

    @property
    def _sum(self) -> Wire:
        dtype = self.formats.qkv_sum
        return self.wire(BufferKey.QKV, Axis.ROW, Kind.ALL_REDUCE, dtype, self.shape.qkv)

    def wires(self) -> tuple[Wire, ...]:
        """Return the all-reduce."""
        return (self._sum,)

    def matrices(self) -> tuple[Matrix, ...]:
        """Return wqkv."""
        return (self.matrix(Weight.WQKV),)

    def charges(self, costs: "Costs") -> Iterator[Charge]:
        """Five ops: matmul, all-gather, sum, selection of the users, heads."""
        yield from self.matmul(costs, "qkv_matmul", Weight.WQKV)
        yield from gather_and_add_charges(self, costs, self._sum, "qkv")
        cores = costs.machine.worker_cores
        yield self.elementwise(costs, "reshard_qkv", self.tiles(self.shape.qkv) * 1024, cores, 1)
        yield from of_users(self, costs, "select_users", self.shape.qkv)
        yield from of_users(self, costs, "create_heads", self.shape.qkv)

    def bind(self, chip: ChipBinder, h: F32, wqkv: WeightId, bias: VectorId | None) -> Heads:
        """Multiply, sum, select, split."""
        reduced = chip.collective(self._sum)
        product_with_bias(chip, self, h, wqkv, bias, reduced.term)
        each = self.shape.users_each
        return split_heads(self, reduced.cross()[chip.col * each : (chip.col + 1) * each])


def of_users(op: SystemOp, costs: "Costs", name: str, width: int) -> Iterator[Kernel]:
    """Yield the charge of an op over the users of a column, padded to a tile."""
    tiles = -(-width // 32) * -(-op.shape.users_each // 32)
    if op.site.size(Axis.ROW) > 1 or name != "select_users":
        cores = min(costs.machine.worker_cores, tiles)
        yield op.elementwise(costs, name, tiles * 1024, cores, 1)


class FusedQkvHeads(QkvHeads):
    """Galaxy: the reduce-scatter over users also splits the heads (op 2 and 3).

    References
    ----------
    .. [1] tt-metal, llama_ccl.py, ``TT_CCL.llama_rs_create_heads``.
    """

    @property
    def _scatter(self) -> Wire:
        # Rows of users are sent, not tiles, because a column has fewer users than a tile has rows.
        shape, dtype = (self.shape.users_each, self.shape.qkv), self.formats.qkv_sum
        return Wire(BufferKey.CREATE_HEADS, Axis.ROW, Kind.REDUCE_SCATTER, dtype, shape)

    def wires(self) -> tuple[Wire, ...]:
        """Return the reduce-scatter."""
        return (self._scatter,)

    def charges(self, costs: "Costs") -> Iterator[Charge]:
        """Two ops: matmul, reduce-scatter with heads."""
        yield from self.matmul(costs, "qkv_matmul", Weight.WQKV)
        size, shape = self.site.size(Axis.ROW), self.shape
        own_s = costs.machine.stage_s + costs.add_s(size * shape.users_each * shape.qkv)
        yield from self.cross(costs, self._scatter, own_s, name="reduce_scatter_create_heads")

    def bind(self, chip: ChipBinder, h: F32, wqkv: WeightId, bias: VectorId | None) -> Heads:
        """Multiply; sum over the columns and keep this column's users."""
        scattered = chip.collective(self._scatter, by_rows=True)
        product_with_bias(chip, self, h, wqkv, bias, scattered.term)
        return split_heads(self, scattered.cross())
