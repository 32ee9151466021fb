"""What ops of prefill charge alike. Sizes are those of the device: padded rows, all computed."""

from collections.abc import Iterator
from typing import Any

from galaxy_mpi.ccl.wire import Kind, Wire
from galaxy_mpi.dtypes import DType, padded
from galaxy_mpi.mesh import Axis
from galaxy_mpi.program import Charge, Kernel
from galaxy_mpi.systems.ops.base import SystemOp
from galaxy_mpi.systems.prefill_pass import PassShape

__all__ = ["PrefillOp"]


class PrefillOp(SystemOp):
    """An op of a prefill pass."""

    @property
    def work(self) -> PassShape:
        """What is prefilled."""
        assert self.site.work is not None
        return self.site.work

    def vector(
        self, costs: Any, name: str, elements: float, *, passes: float, n_ops: int = 1
    ) -> Iterator[Kernel]:
        """Yield ops that share elementwise work among them."""
        cores = costs.machine.prefill_cores
        for _ in range(n_ops):
            yield self.elementwise(costs, name, elements / n_ops, cores, passes)

    def prefill_matmul_s(self, costs: Any, weight: str) -> float:
        """Return the slower of reading the weight once and multiplying on all cores."""
        m, (k, n) = costs.machine, self.shape.matrices[weight]
        tile_bytes = self.precision.weight(weight).tile_bytes
        reading_s = costs.weight_bytes(k, n, tile_bytes) / m.dram_bytes_per_s
        peak = m.prefill_cores * self.peak(costs, weight) * m.prefill_efficiency
        seconds: float = m.launch_s + max(reading_s, 2 * self.device_rows * k * n / peak)
        return seconds

    def prefill_matmul(self, costs: Any, name: str, weight: str) -> Iterator[Charge]:
        """Yield the charge of a matmul."""
        yield Kernel(name, self.prefill_matmul_s(costs, weight), costs.machine.prefill_cores)

    def sum_wire(self, key: str, axis: Axis, width: int, dtype: DType) -> Wire:
        """Return the wire of an all-reduce of all rows."""
        return self.wire(key, axis, Kind.ALL_REDUCE, dtype, width)

    def scatter_wire(self, key: str, axis: Axis, width: int, dtype: DType) -> Wire:
        """Return the wire of a reduce-scatter into chunks of so many columns."""
        return self.wire(key, axis, Kind.REDUCE_SCATTER, dtype, width)

    def scatter_charges(
        self, costs: Any, wire: Wire, name: str, chunk: float, block: float, **more: Any
    ) -> Iterator[Charge]:
        """Yield a reduce-scatter: the links of a gather of such chunks, and an add at every hop.

        Chunks are added as they stream in; what adding takes longer than the links is on top.
        """
        size, fabric = self.site.size(wire.axis), self.site.fabric
        links = fabric.scatter_links or costs.machine.links
        add_s = costs.add_s((size - 1) * self.device_rows * chunk)
        own_s = max(0.0, add_s - costs.wire_s(size, block, links))
        yield from self.cross_block(costs, wire, own_s, name, block, links, **more)

    def reduce_charges(self, costs: Any, wire: Wire, name: str) -> Iterator[Charge]:
        """Yield an all-reduce: reduce-scatter, then all-gather."""
        chunk = wire.sent[-1] / self.site.size(wire.axis)
        block = wire.dtype.packed_bytes((self.device_rows, padded(int(-(-chunk // 1)))))
        yield from self.scatter_charges(costs, wire, name, chunk, block)
        links = self.site.fabric.gather_links or costs.machine.links
        yield from self.cross_block(costs, wire, 0.0, name, block, links, rides=True)

    def cross_block(
        self,
        costs: Any,
        wire: Wire,
        own_s: float,
        name: str,
        block: float,
        links: float,
        **more: Any,
    ) -> list[Charge]:
        """Return the charge of a collective whose members send so many bytes each."""
        parts = wire.n_bytes / block
        return self.cross(costs, wire, own_s, name=name, parts=parts, links=links, **more)
