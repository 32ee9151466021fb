"""Prefill: the matmuls of a layer and the sums after them.

Products are rounded when they are computed, in blocks of rows. On the device this happens inside
the op for long sequences (minimal matmul), with the same bits.

References
----------
.. [1] tt-metal, llama_mlp.py, ``ttnn.experimental.minimal_matmul``,
   ``all_gather_minimal_matmul_async``.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from galaxy_mpi.arrays import F32
from galaxy_mpi.ccl.wire import BufferKey, Kind, Wire
from galaxy_mpi.mesh import Axis
from galaxy_mpi.program import Charge, Cuts, Tensor
from galaxy_mpi.systems.chip import ChipBinder
from galaxy_mpi.systems.ops.add_norm import concat_columns
from galaxy_mpi.systems.ops.block_end import BlockEnd
from galaxy_mpi.systems.ops.gate_up import silu_mul
from galaxy_mpi.systems.ops.prefill_base import PrefillOp
from galaxy_mpi.systems.ops.qkv_heads import Heads, product_with_bias, qkv_inputs, split_heads
from galaxy_mpi.weights import VectorId, Weight, WeightId

if TYPE_CHECKING:
    from galaxy_mpi.timing.costs import Costs

__all__ = [
    "MinimalDown",
    "PrefillDown",
    "PrefillGateUp",
    "PrefillOutput",
    "PrefillQkvHeads",
    "ScatteredPrefillDown",
    "ScatteredPrefillOutput",
]

GATHERED_ROWS = 4096
"""Up to this many device rows, terms after wo are gathered and summed (tt-metal,
llama_attention.py)."""

SLAB_ROWS = 2048
"""Maximum rows that are gathered before they are multiplied. Limits memory; untuned."""


class PrefillQkvHeads(PrefillOp):
    """Matmul, all-reduce over the columns, heads: every column has all heads of its row."""

    name = "qkv_heads"

    def __call__(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return q (S, N/R, H), k and v (S, K/R, H)."""
        s = self.shape
        n, kv = (self.rows, s.heads, s.head_dim), (self.rows, s.kv_heads, s.head_dim)
        q, k, v = self.record(h.program, qkv_inputs(self, h), q=n, k=kv, v=kv)
        return q, k, v

    def cuts(self) -> Cuts:
        """Return the sharding of its outputs."""
        return dict.fromkeys(("q", "k", "v"), self.heads_cut)

    @property
    def _sum(self) -> Wire:
        return self.sum_wire(BufferKey.QKV, Axis.ROW, self.shape.qkv, self.formats.qkv_sum)

    def wires(self) -> tuple[Wire, ...]:
        """Return the all-reduce."""
        return (self._sum,)

    def charges(self, costs: "Costs") -> Iterator[Charge]:
        """Matmul, reduce-scatter, all-gather, heads."""
        yield from self.prefill_matmul(costs, "qkv_matmul", Weight.WQKV)
        yield from self.reduce_charges(costs, self._sum, "all_reduce_qkv")
        elements = self.device_rows * self.shape.qkv
        yield from self.vector(costs, "create_heads", elements, passes=1)

    def bind(self, chip: ChipBinder, h: F32, wqkv: WeightId, bias: VectorId | None) -> Heads:
        """Multiply, round, sum, split."""
        reduced = chip.collective(self._sum)
        product_with_bias(chip, self, h, wqkv, bias, reduced.term)
        return split_heads(self, reduced.cross())


class PrefillOutput(BlockEnd, PrefillOp):
    """wo and the all-reduce over the rows. `PrefillDown` has a gather before it."""

    @property
    def _gather(self) -> Wire:
        width, dtype = self.shape.hidden_shard, self.formats.act
        return self.wire(BufferKey.BINARY_MUL, Axis.ROW, Kind.ALL_GATHER, dtype, width)

    @property
    def _sum(self) -> Wire:
        return self.sum_wire(self._key, Axis.COLUMN, self.shape.dim, self._summed)

    def wires(self) -> tuple[Wire, ...]:
        """Return the all-reduce."""
        return (self._sum,)

    def charges(self, costs: "Costs") -> Iterator[Charge]:
        """Matmul, reduce-scatter, all-gather."""
        yield from self.prefill_matmul(costs, f"{self.weight}_matmul", self.weight)
        yield from self._sum_charges(costs)

    def _sum_charges(self, costs: "Costs") -> Iterator[Charge]:
        if self.weight is Weight.WO and self.device_rows <= GATHERED_ROWS:
            yield from self.gather_and_sum_charges(costs, self._sum, "all_reduce_wo")
        else:
            yield from self.reduce_charges(costs, self._sum, f"all_reduce_{self.weight}")

    def bind(self, chip: ChipBinder, x: F32, weight: WeightId) -> F32:
        """Multiply, round, sum."""
        reduced = chip.collective(self._sum)
        chip.matmul(self.site, x, weight, reduced.term)
        chip.round(self._product, reduced.term)
        total: F32 = reduced.cross()
        return total


class ScatteredPrefillOutput(PrefillOutput):
    """One row of chips: the all-reduce ends half-way, as a reduce-scatter."""

    @property
    def _scatter(self) -> Wire:
        return self.scatter_wire(self._key, Axis.COLUMN, self.shape.stream, self._summed)

    def wires(self) -> tuple[Wire, ...]:
        """Return the reduce-scatter."""
        return (self._scatter,)

    def _sum_charges(self, costs: "Costs") -> Iterator[Charge]:
        wire, name = self._scatter, f"reduce_scatter_{self.weight}"
        yield from self.scatter_charges(costs, wire, name, wire.n_bytes)

    def bind(self, chip: ChipBinder, x: F32, weight: WeightId) -> F32:
        """Multiply, round, sum, keep this chip's part."""
        scattered = chip.collective(self._scatter)
        term, width = scattered.term, self.shape.model_dim
        chip.matmul(self.site, x, weight, term[:, :width])
        if term.shape[1] > width:
            chip.call(term[:, width:].fill, 0)
        chip.round(self._product, term)
        total: F32 = scattered.cross()
        return total


class PrefillGateUp(PrefillOp):
    """Two matmuls, two reduce-scatters over the columns, silu and product."""

    name = "gate_up"

    def __call__(self, h: Tensor) -> Tensor:
        """Return silu(gate) * up, sharded over the columns: (S, F/(R C))."""
        inputs = (h, *(WeightId(h.program.layer, weight) for weight in (Weight.W1, Weight.W3)))
        (act,) = self.record(h.program, inputs, act=(self.rows, self.shape.hidden_shard))
        return act

    def cuts(self) -> Cuts:
        """Return the sharding of its outputs."""
        return {"act": ((), (Axis.COLUMN, Axis.ROW))}

    def _scatter(self, key: str) -> Wire:
        dtype = self.formats.gate_up_sum
        return self.scatter_wire(key, Axis.ROW, self.shape.hidden_shard, dtype)

    def wires(self) -> tuple[Wire, ...]:
        """Return two reduce-scatters."""
        return (self._scatter(BufferKey.FF1), self._scatter(BufferKey.FF3))

    def charges(self, costs: "Costs") -> Iterator[Charge]:
        """A matmul and a reduce-scatter each, then silu with product."""
        width = self.shape.hidden_shard
        for weight, key in ((Weight.W1, BufferKey.FF1), (Weight.W3, BufferKey.FF3)):
            yield from self.prefill_matmul(costs, f"{weight}_matmul", weight)
            wire, name = self._scatter(key), f"reduce_scatter_{weight}"
            yield from self.scatter_charges(costs, wire, name, wire.n_bytes)
        elements, dtype = self.device_rows * width, self.formats.act
        yield from self.vector(costs, "silu_mul", elements, passes=2, tensors=3, dtype=dtype)

    def bind(self, chip: ChipBinder, h: F32, w1: WeightId, w3: WeightId) -> F32:
        """Multiply, round, sum, keep this column's part, twice; then silu and product."""
        parts = []
        for weight, key in ((w1, BufferKey.FF1), (w3, BufferKey.FF3)):
            scattered = chip.collective(self._scatter(key))
            chip.matmul(self.site, h, weight, scattered.term)
            chip.round(self.formats.gate_up_product, scattered.term)
            parts.append(scattered.cross())
        act = chip.array(*parts[0].shape)
        silu_mul(chip, parts[0], parts[1], act)
        chip.round(self.formats.act, act)
        return act


class PrefillDown(PrefillOutput):
    """All-gather over the columns, w2, all-reduce over the rows."""

    def wires(self) -> tuple[Wire, ...]:
        """Return the gather and the sum."""
        return (self._gather, *super().wires())

    def charges(self, costs: "Costs") -> Iterator[Charge]:
        """Gather, matmul, sum."""
        yield from self.cross(costs, self._gather, name="all_gather_mlp")
        yield from super().charges(costs)

    def bind(self, chip: ChipBinder, x: F32, weight: WeightId) -> F32:
        """Gather, then as `PrefillOutput`."""
        return super().bind(chip, gather_columns(chip, self._gather, x), weight)


class ScatteredPrefillDown(ScatteredPrefillOutput):
    """One row of chips: nothing to gather."""

    def wires(self) -> tuple[Wire, ...]:
        """Return the gather and the sum."""
        return (self._gather, *super().wires())

    def charges(self, costs: "Costs") -> Iterator[Charge]:
        """Gather, matmul, sum."""
        yield from self.cross(costs, self._gather, name="all_gather_mlp")
        yield from super().charges(costs)

    def bind(self, chip: ChipBinder, x: F32, weight: WeightId) -> F32:
        """Gather, then as `ScatteredPrefillOutput`."""
        return super().bind(chip, gather_columns(chip, self._gather, x), weight)


class MinimalDown(PrefillDown):
    """Galaxy: for long sequences, the gather and the matmul overlap."""

    def charges(self, costs: "Costs") -> Iterator[Charge]:
        """One op and the sum, for long sequences."""
        if not self.work.is_long:
            yield from super().charges(costs)
            return
        beside_s, cores = self.prefill_matmul_s(costs, self.weight), costs.machine.prefill_cores
        name = "all_gather_w2_matmul"
        yield from self.cross(costs, self._gather, name=name, beside_s=beside_s, cores=cores)
        yield from self._sum_charges(costs)

    def bind(self, chip: ChipBinder, x: F32, weight: WeightId) -> F32:
        """Gather slabs of rows and multiply each as it arrives, without storing the whole."""
        if not self.work.is_long:
            return super().bind(chip, x, weight)
        product = chip.array(self.rows, self.shape.dim)
        with chip.weight(self.site, weight) as w:
            for rows, gathered in chip.slabs(self._gather, self.work.row_blocks):
                chip.call(np.copyto, gathered.term, x[rows])
                slab = concat_columns(chip, gathered.cross())
                read = chip.read_activation(self.site, weight.weight, slab)
                w.multiply(read, product[rows], chip.prompt_rows(self.work, rows))
        chip.round(self._product, product)
        reduced = chip.collective(self._sum)
        chip.call(np.copyto, reduced.term, product)
        total: F32 = reduced.cross()
        return total


def gather_columns(chip: ChipBinder, wire: Wire, x: F32) -> F32:
    """Bind a gather and concatenate the columns' parts: (S, W) to (S, C * W)."""
    gathered = chip.collective(wire)
    chip.call(np.copyto, gathered.term, x)
    return concat_columns(chip, gathered.cross())
