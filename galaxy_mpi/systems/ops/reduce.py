"""Decode: matmuls whose products are summed over a column or a row of chips."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from galaxy_mpi.arrays import F32
from galaxy_mpi.ccl.wire import Kind, Wire
from galaxy_mpi.mesh import Axis
from galaxy_mpi.program import Charge, Kernel, Matrix
from galaxy_mpi.systems.chip import ChipBinder
from galaxy_mpi.systems.ops.base import SystemOp
from galaxy_mpi.systems.ops.block_end import BlockEnd
from galaxy_mpi.weights import WeightId

if TYPE_CHECKING:
    from galaxy_mpi.timing.costs import Costs

__all__ = ["FusedReduce", "Reduce", "ScatteredReduce", "add_at_once_charges"]


def gather_and_add_charges(op: SystemOp, costs: "Costs", wire: Wire, what: str) -> Iterator[Charge]:
    """Yield the three ops of a generic all-reduce.

    All blocks are gathered, copied to another layout in L1, and added (``tt_all_reduce``).
    """
    size = op.site.size(wire.axis)
    if size > 1:
        yield from op.cross(costs, wire, name=f"all_gather_{what}")
        elements = size * op.tiles(wire.shape[-1]) * 1024
        cores = costs.machine.worker_cores
        yield Kernel(f"reshard_gathered_{what}", costs.copy_s(elements, cores), cores)
        seconds = costs.machine.launch_s + costs.add_s(elements)
        yield Kernel(f"sum_{what}", seconds, costs.machine.worker_cores)


def add_at_once_charges(op: SystemOp, costs: "Costs", wire: Wire, name: str) -> Iterator[Charge]:
    """Yield the Galaxy's all-reduce, one op: every member receives all blocks and adds them."""
    add_s = costs.add_s(op.site.size(wire.axis) * op.tiles(wire.shape[-1]) * 1024)
    yield from op.cross(costs, wire, add_s, name=name)


class Reduce(BlockEnd):
    """Generic: matmul, all-gather over the rows, sum."""

    @property
    def _sum(self) -> Wire:
        dtype = self._summed
        return self.wire(self._key, Axis.COLUMN, Kind.ALL_REDUCE, dtype, self.shape.dim)

    def wires(self) -> tuple[Wire, ...]:
        """Return the all-reduce."""
        return (self._sum,)

    def matrices(self) -> tuple[Matrix, ...]:
        """Return wo or w2."""
        return (self.matrix(self.weight),)

    def charges(self, costs: "Costs") -> Iterator[Charge]:
        """Three ops: matmul, all-gather, sum."""
        yield from self.matmul(costs, f"{self.weight}_matmul", self.weight)
        yield from gather_and_add_charges(self, costs, self._sum, str(self.weight))

    def bind(self, chip: ChipBinder, x: F32, weight: WeightId) -> F32:
        """Multiply and sum."""
        reduced = chip.collective(self._sum)
        chip.matmul(self.site, x, weight, reduced.term)
        if self._product is not self._summed:
            chip.round(self._product, reduced.term)
        total: F32 = reduced.cross()
        return total


class FusedReduce(Reduce):
    """Galaxy: terms are added where they arrive (ops 8, 9 and 15, 16)."""

    def charges(self, costs: "Costs") -> Iterator[Charge]:
        """Two ops: matmul, all-reduce."""
        yield from self.matmul(costs, f"{self.weight}_matmul", self.weight)
        yield from add_at_once_charges(self, costs, self._sum, f"all_reduce_{self.weight}")


class ScatteredReduce(Reduce):
    """One row of chips: the all-reduce ends half-way, as a reduce-scatter."""

    @property
    def _scatter(self) -> Wire:
        dtype = self._summed
        return self.wire(self._key, Axis.COLUMN, Kind.REDUCE_SCATTER, dtype, self.shape.stream)

    def wires(self) -> tuple[Wire, ...]:
        """Return the reduce-scatter."""
        return (self._scatter,)

    def charges(self, costs: "Costs") -> Iterator[Charge]:
        """Two ops: matmul, reduce-scatter."""
        yield from self.matmul(costs, f"{self.weight}_matmul", self.weight)
        elements = self.tiles(self.shape.stream) * 1024
        own_s = self.scatter_own_s(costs, self._scatter, elements)
        yield from self.cross(costs, self._scatter, own_s, name=f"reduce_scatter_{self.weight}")

    def bind(self, chip: ChipBinder, x: F32, weight: WeightId) -> F32:
        """Multiply, sum, keep this chip's part."""
        scattered = chip.collective(self._scatter)
        padded_out = scattered.term
        width = self.shape.model_dim
        if padded_out.shape[-1] == width:
            chip.matmul(self.site, x, weight, padded_out)
        else:  # the last chip's part is padded with zero columns
            chip.matmul(self.site, x, weight, padded_out[:, :width])
            chip.call(padded_out[:, width:].fill, 0)
        chip.round(self._product, padded_out)
        total: F32 = scattered.cross()
        return total
