"""Charges that prefill ops share. Sizes are those of the device, with padded rows."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from galaxy_mpi.ccl.wire import Format, Kind, Wire
from galaxy_mpi.dtypes import TILE, DType, padded
from galaxy_mpi.mesh import Axis
from galaxy_mpi.program import Charge, Kernel
from galaxy_mpi.program.spent import Spent
from galaxy_mpi.systems.ops.base import SystemOp
from galaxy_mpi.systems.prefill_pass import PassShape
from galaxy_mpi.weights import Weight

if TYPE_CHECKING:
    from galaxy_mpi.timing.costs import Costs

__all__ = ["PrefillOp"]


class PrefillOp(SystemOp):
    """An op of a prefill pass."""

    @property
    def work(self) -> PassShape:
        """Shape of the pass."""
        assert self.site.work is not None
        return self.site.work

    def vector(
        self,
        costs: "Costs",
        name: str,
        elements: float,
        *,
        passes: float,
        n_ops: int = 1,
        tensors: int = 2,
        dtype: Format | None = None,
    ) -> Iterator[Kernel]:
        """Yield ops that share elementwise work.

        Parameters
        ----------
        tensors : int
            Tensors of that size that each op reads or writes in DRAM.
        dtype : Format, optional
            Format of the tensors; by default that of activations.
        """
        tile_bytes = (dtype or self.formats.attention_norm).packed_bytes((TILE, TILE))
        for _ in range(n_ops):
            each = elements / n_ops
            seconds = costs.streamed_s(each, passes, tensors * each * tile_bytes / TILE**2)
            yield Kernel(name, seconds, costs.machine.prefill_cores)

    def prefill_matmul_s(self, costs: "Costs", weight: Weight) -> Spent:
        """Return the longer of DRAM access and multiplying on all cores."""
        k, n = self.shape.matrices[weight]
        tile_bytes = self.precision.weight(weight).tile_bytes
        moved = self.formats.w2_product.packed_bytes((self.device_rows, padded(k) + padded(n)))
        peak = self.peak(costs, weight)
        return costs.prefill_matmul_s(self.device_rows, k, n, tile_bytes, peak, moved)

    def prefill_matmul(self, costs: "Costs", name: str, weight: Weight) -> Iterator[Charge]:
        """Yield the charge of a matmul."""
        yield Kernel(name, self.prefill_matmul_s(costs, weight), costs.machine.prefill_cores)

    def sum_wire(self, key: str, axis: Axis, width: int, dtype: DType) -> Wire:
        """Return the wire of an all-reduce of all rows."""
        return self.wire(key, axis, Kind.ALL_REDUCE, dtype, width)

    def scatter_wire(self, key: str, axis: Axis, width: int, dtype: DType) -> Wire:
        """Return the wire of a reduce-scatter into chunks of so many columns."""
        return self.wire(key, axis, Kind.REDUCE_SCATTER, dtype, width)

    def scatter_charges(
        self, costs: "Costs", wire: Wire, name: str, block: float
    ) -> Iterator[Charge]:
        """Yield a reduce-scatter: the link load of a gather, and an add at every hop.

        The cores that feed the links add chunks as they stream in.
        """
        fabric, m = self.site.fabric, costs.machine
        links = fabric.scatter_links or m.links
        worker = self.worker(costs, adds=True)
        yield from self.cross_block(costs, wire, worker, name, block, links)

    def reduce_charges(self, costs: "Costs", wire: Wire, name: str) -> Iterator[Charge]:
        """Yield an all-reduce: reduce-scatter, then all-gather."""
        chunk = wire.sent[-1] / self.site.size(wire.axis)
        block = wire.dtype.packed_bytes((self.device_rows, padded(int(-(-chunk // 1)))))
        yield from self.scatter_charges(costs, wire, name, block)
        fabric = self.site.fabric
        links = fabric.gather_links or costs.machine.links
        worker = self.worker(costs)
        yield from self.cross_block(costs, wire, worker, name, block, links, rides=True)

    def gather_and_sum_charges(self, costs: "Costs", wire: Wire, name: str) -> Iterator[Charge]:
        """Yield an all-reduce of a short sequence: gather all terms, then sum.

        The sum reads all terms from DRAM.
        """
        size = self.site.size(wire.axis)
        if size == 1:
            return
        yield from self.cross(costs, wire, name=name)
        elements = self.tiles(wire.shape[-1]) * 1024
        yield from self.vector(
            costs, f"sum_{self.name}", elements, passes=1, tensors=size + 1, dtype=wire.dtype
        )

    def cross_block(
        self,
        costs: "Costs",
        wire: Wire,
        worker: float,
        name: str,
        block: float,
        links: float,
        *,
        rides: bool = False,
    ) -> list[Charge]:
        """Return the charge of a collective whose members each send so many bytes.

        Parameters
        ----------
        worker : float
            Bytes per second from the cores of a link.
        """
        return self.cross(
            costs, wire, name=name, links=links, block_bytes=block, worker=worker, rides=rides
        )
