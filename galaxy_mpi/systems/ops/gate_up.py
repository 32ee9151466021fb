"""Decode: w1 and w3, summed over the columns, silu and product, gathered over the columns."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from galaxy_mpi.arrays import F32
from galaxy_mpi.ccl.wire import BufferKey, Kind, Wire
from galaxy_mpi.mesh import Axis
from galaxy_mpi.program import Charge, Cuts, Kernel, Matrix, Tensor
from galaxy_mpi.systems.chip import ChipBinder
from galaxy_mpi.systems.ops.add_norm import concat_columns
from galaxy_mpi.systems.ops.base import SystemOp
from galaxy_mpi.weights import Weight, WeightId

if TYPE_CHECKING:
    from galaxy_mpi.timing.costs import Costs

__all__ = ["FusedGateUp", "GateUp", "silu_mul"]


def silu_mul(chip: ChipBinder, gate: F32, up: F32, out: F32) -> None:
    """Bind ``gate * sigmoid(gate) * up``; a very negative gate divided by infinity is 0."""
    chip.call(np.negative, gate, out)
    chip.call(np.exp, out, out)
    chip.call(np.add, out, np.float32(1), out)
    chip.call(np.divide, gate, out, out)
    chip.call(np.multiply, out, up, out)


class GateUp(SystemOp):
    """Generic: two matmuls, two reduce-scatters, one op for silu and product, an all-gather."""

    name = "gate_up"

    def __call__(self, h: Tensor) -> Tensor:
        """Return silu(gate) * up, gathered over the columns: (B, F/R)."""
        inputs = (h, *(WeightId(h.program.layer, weight) for weight in (Weight.W1, Weight.W3)))
        (act,) = self.record(h.program, inputs, act=(self.rows, self.shape.hidden))
        return act

    def cuts(self) -> Cuts:
        """Return the sharding of its outputs."""
        return {"act": ((), (Axis.COLUMN,))}

    def _scatter(self, key: str) -> Wire:
        width, dtype = self.shape.hidden_shard, self.formats.gate_up_sum
        return self.wire(key, Axis.ROW, Kind.REDUCE_SCATTER, dtype, width)

    @property
    def _gather(self) -> Wire:
        width, dtype = self.shape.hidden_shard, self.formats.act
        return self.wire(BufferKey.BINARY_MUL, Axis.ROW, Kind.ALL_GATHER, dtype, width)

    def wires(self) -> tuple[Wire, ...]:
        """Return two reduce-scatters and the gather."""
        return (self._scatter(BufferKey.FF1), self._scatter(BufferKey.FF3), self._gather)

    def matrices(self) -> tuple[Matrix, ...]:
        """Return w1 and w3."""
        return (self.matrix(Weight.W1), self.matrix(Weight.W3))

    def charges(self, costs: "Costs") -> Iterator[Charge]:
        """Six ops."""
        for weight in (Weight.W1, Weight.W3):
            yield from self.matmul(costs, f"{weight}_matmul", weight)
        for weight, key in ((Weight.W1, BufferKey.FF1), (Weight.W3, BufferKey.FF3)):
            wire = self._scatter(key)
            own_s = self.scatter_own_s(costs, wire, self.tiles(self.shape.hidden_shard) * 1024)
            yield from self.cross(costs, wire, own_s, name=f"reduce_scatter_{weight}")
        yield from self._behind(costs)

    def _behind(self, costs: "Costs") -> Iterator[Charge]:
        """Yield silu with product, and the gather."""
        tiles = self.tiles(self.shape.hidden_shard)
        cores = min(costs.machine.worker_cores, tiles)
        yield self.elementwise(costs, "silu_mul", tiles * 1024, cores, 2)
        yield from self.cross(costs, self._gather, name="all_gather_mlp")

    def bind(self, chip: ChipBinder, h: F32, w1: WeightId, w3: WeightId) -> F32:
        """Multiply twice; sum each product over the columns and keep a part."""
        products = [chip.array(self.rows, self.shape.hidden) for _ in (w1, w3)]
        for weight, product in zip((w1, w3), products, strict=True):
            chip.matmul(self.site, h, weight, product)
            chip.round(self.formats.gate_up_product, product)
        parts = []
        for key, product in zip((BufferKey.FF1, BufferKey.FF3), products, strict=True):
            scattered = chip.collective(self._scatter(key))
            chip.call(np.copyto, scattered.term, product)
            parts.append(scattered.cross())
        return self._gathered(chip, *parts)

    def _gathered(self, chip: ChipBinder, gate: F32, up: F32) -> F32:
        """Bind what follows the sums: (B, F/(R C)) twice to (B, F/R)."""
        gathered = chip.collective(self._gather)
        silu_mul(chip, gate, up, gathered.term)
        return concat_columns(chip, gathered.cross())


class FusedGateUp(GateUp):
    """Galaxy: the first product is sent while the second is computed (op 11 to 14).

    The host sends both in one exchange, because synchronising is expensive. Blocks of 16 values are
    independent, so bytes and values are the same as in two exchanges.

    References
    ----------
    .. [1] tt-metal, llama_ccl.py, ``TT_CCL.double_matmul_line_reduce_scatter``.
    """

    @property
    def _both(self) -> Wire:
        one = self._scatter(BufferKey.GATE_UP)
        return Wire(one.key, one.axis, one.kind, one.dtype, (2, *one.shape), (2, *one.sent))

    def wires(self) -> tuple[Wire, ...]:
        """Return the reduce-scatter of both products, and the gather."""
        return (self._both, self._gather)

    def charges(self, costs: "Costs") -> Iterator[Charge]:
        """Two matmuls, a reduce-scatter overlapping the second; another; silu; all-gather."""
        size, shape = self.site.size(Axis.ROW), self.shape
        add_s = costs.add_s(size * shape.users * shape.hidden_shard)
        fused, cores = "w1_w3_matmul_reduce_scatter_w1", self.matmul_cores(costs)
        yield from self.take(costs, Weight.W1)
        yield Kernel(fused, self.matmul_s(costs, Weight.W1), cores, has_gap=False)
        yield from self.consumed()
        yield from self.take(costs, Weight.W3)
        beside_s = self.matmul_s(costs, Weight.W3)
        yield from self.cross(
            costs, self._both, add_s, name=fused, parts=2, beside_s=beside_s, cores=cores
        )
        yield from self.consumed()
        name = "reduce_scatter_w3"
        yield from self.cross(costs, self._both, add_s, name=name, parts=2, rides=True)
        yield from self._behind(costs)

    def bind(self, chip: ChipBinder, h: F32, w1: WeightId, w3: WeightId) -> F32:
        """Multiply twice into one term; sum over the columns and keep a part of each."""
        scattered = chip.collective(self._both)
        for number, weight in enumerate((w1, w3)):
            chip.matmul(self.site, h, weight, scattered.term[number])
            if self.formats.gate_up_product is not self.formats.gate_up_sum:
                chip.round(self.formats.gate_up_product, scattered.term[number])
        gate, up = scattered.cross()
        return self._gathered(chip, gate, up)
