"""The base of all ops: a site, and charges that many ops share."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from galaxy_mpi.ccl.wire import Format, Kind, Wire
from galaxy_mpi.dtypes import padded
from galaxy_mpi.mesh import Axis
from galaxy_mpi.program import Charge, Consumed, Cross, Cut, Kernel, Matrix, Op, Take
from galaxy_mpi.program.spent import Spent
from galaxy_mpi.systems.site import Site
from galaxy_mpi.weights import Weight

if TYPE_CHECKING:
    from galaxy_mpi.timing.costs import Costs

__all__ = ["SystemOp"]


LONG_ROWS = 2048
"""Of a device sequence, from which tensors of prefill are long."""

_PARTS = {
    **dict.fromkeys(("h", "residual", "out", "tiles"), "dim"),
    **dict.fromkeys(("q", "mixed"), "heads"),
    **dict.fromkeys(("k", "v"), "kv_heads"),
    "act": "hidden",
    "logits": "vocabulary",
}
"""Of the model, by the names that ops give their outputs."""


def _in_words(name: str) -> str:
    """Return the name of a class in small letters.

    Examples
    --------
    >>> _in_words("FusedAddNorm")
    'fused_add_norm'
    """
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


class SystemOp(Op):
    """An op of a system.

    Parameters
    ----------
    site : Site
    name : str, optional
        Name in reports, by default that of the class, or its attribute ``name``; some generic ops
        append the name of a part.
    """

    name = ""

    def __init__(self, site: Site, *, name: str = "") -> None:
        super().__init__(name or self.name or _in_words(type(self).__name__))
        self.site, self.shape, self.precision = site, site.shape, site.precision
        self.formats = site.precision.formats(site.mode)

    def parts(self) -> Mapping[str, str]:
        """Return the part of the model of each output, by the output's name."""
        return _PARTS

    @property
    def rows(self) -> int:
        """Rows of activations on the host."""
        return self.shape.users if self.site.work is None else self.site.work.n_rows

    @property
    def stream_cut(self) -> Cut:
        """Sharding of the residual: over the columns, or over the rows if it stays sharded."""
        is_scattered = self.shape.stream != self.shape.dim
        return ((), (Axis.COLUMN if is_scattered else Axis.ROW,))

    @property
    def heads_cut(self) -> Cut:
        """Sharding of heads: over the rows; in decode, users are sharded over the columns."""
        return ((Axis.ROW,) if self.site.work is None else (), (Axis.COLUMN,), ())

    @property
    def device_rows(self) -> int:
        """Rows of activations on the device: whole tiles."""
        work = self.site.work
        return padded(self.shape.users) if work is None else work.device_rows

    def wire(
        self, key: str, axis: Axis, kind: Kind, dtype: Format, width: int, links: int | None = None
    ) -> Wire:
        """Return the wire of a tensor of all rows, so many columns wide, in whole tiles."""
        shape = (self.device_rows, padded(width))
        return Wire(key, axis, kind, dtype, shape, (self.rows, width), links)

    def tiles(self, width: int) -> int:
        """Return the tiles of a tensor of all rows."""
        return padded(self.device_rows) // 32 * (padded(width) // 32)

    def cross(
        self,
        costs: "Costs",
        wire: Wire,
        own_s: float = 0.0,
        *,
        name: str | None = None,
        parts: float = 1,
        links: float | None = None,
        laps: float | None = None,
        block_bytes: float | None = None,
        worker: float | None = None,
        beside_s: float = 0.0,
        cores: float = 0.0,
        rides: bool = False,
    ) -> list[Charge]:
        """Return the charge of a collective; none in a group of one that the system skips.

        Parameters
        ----------
        own_s : float
            Each chip's own time, without launching.
        name : str, optional
            Defaults to the op's.
        parts : float
            Number of parts of the wire; this charge is for one of them.
        links : float, optional
            Defaults to those of the wire, or of the system.
        laps : float, optional
            See `Cross`; the system's by default.
        block_bytes : float, optional
            Bytes that each member sends, if not the wire's part.
        worker : float, optional
            Bytes per second from the cores of a link; by default those of a gather in prefill.
        beside_s, cores, rides
            See `Cross`.
        """
        fabric, size = self.site.fabric, self.site.size(wire.axis)
        if size == 1 and fabric.skips_alone:
            return []
        links = links or wire.links or self.links(wire) or costs.machine.links
        block = wire.n_bytes / parts if block_bytes is None else block_bytes
        wire_s = self._wire_s(costs, wire, block, links, worker)
        blocks = costs.wire_blocks(size)
        m = costs.machine
        # Buffers allocated per call need a barrier, their addresses are sent each time, and cores
        # forward the data; persistent buffers are written by the fabric itself.
        is_persistent = fabric.laps == 1
        steps = 0.0 if is_persistent else m.generic_step_s / m.link_hop_s
        own_s += m.collective_s if is_persistent else m.generic_collective_s
        return [
            Cross(
                name or self.name,
                wire,
                own_s,
                wire_s,
                block_s=wire_s / blocks if blocks >= 1 else wire_s,
                link_bytes=blocks * block / links,
                laps=laps or fabric.laps + steps,
                beside_s=beside_s,
                cores=cores,
                rides=rides,
            )
        ]

    def _wire_s(
        self, costs: "Costs", wire: Wire, block: float, links: float, worker: float | None = None
    ) -> float:
        """Return how long the busiest link is busy."""
        page_bytes, size = wire.dtype.packed_bytes((32, 32)), self.site.size(wire.axis)
        if worker is None and self.site.work is not None:
            worker = self.worker(costs)
        return costs.wire_s(size, block, links, page_bytes, worker)

    def worker(self, costs: "Costs", *, adds: bool = False) -> float:
        """Return the bytes a second that a link is given in prefill, where tensors are in DRAM.

        Long tensors of the generic system pass more slowly; from which length on is assumed,
        because no time between 128 and 32,768 tokens is published.
        """
        m = costs.machine
        of_worker = m.scatter_bytes_per_worker_s if adds else m.gather_bytes_per_worker_s
        rate = of_worker * self.site.fabric.workers
        if self.site.fabric.laps > 1 and self.device_rows >= LONG_ROWS:
            rate = min(rate, m.generic_link_bytes_per_s)
        return rate

    def links(self, wire: Wire) -> float | None:
        """Return the links that the system uses for such a collective; None: all."""
        fabric = self.site.fabric
        scatters = wire.kind is Kind.REDUCE_SCATTER
        return fabric.scatter_links if scatters else fabric.gather_links

    def scatter_own_s(self, costs: "Costs", wire: Wire, elements: float) -> float:
        """Return how much longer the adds of a reduce-scatter take than the links.

        Chunks are added hop by hop as they stream in.
        """
        size = self.site.size(wire.axis)
        links = wire.links or self.links(wire) or costs.machine.links
        adding_s = costs.add_s((size - 1) * elements)
        return max(0.0, adding_s - self._wire_s(costs, wire, wire.n_bytes, links))

    def peak(self, costs: "Costs", weight: Weight) -> float:
        """Return flops per second of a core at the fidelity of a weight's matmul."""
        return costs.flops_per_core_s(self.precision.fidelity(weight, self.site.mode))

    def attention_peak(self, costs: "Costs") -> float:
        """Return flops per second of a core at the fidelity of attention."""
        return costs.flops_per_core_s(self.precision.attention_fidelity(self.site.mode))

    def elementwise(
        self, costs: "Costs", name: str, elements: float, cores: float, passes: float
    ) -> Kernel:
        """Return the charge of an op that makes so many passes over its elements."""
        return Kernel(name, costs.elementwise_s(elements, cores, passes), cores)

    def matrix(self, weight: Weight, *, is_prefetched: bool = True) -> Matrix:
        """Return a weight as stored on the device."""
        precision = self.precision
        return Matrix(
            weight,
            *self.shape.matrices[weight],
            precision.weight(weight),
            getattr(self.formats, weight.multiplies),
            precision.fidelity(weight, self.site.mode),
            is_prefetched,
        )

    # Matmuls of decode: the weight is in the circular buffer, or read from DRAM by the matmul.

    def matmul_cores(self, costs: "Costs") -> float:
        """Return the number of cores of a decode matmul."""
        m, site = costs.machine, self.site
        return m.ring_cores if site.prefetch or site.fabric.ring_matmuls else m.bank_cores

    def matmul_s(self, costs: "Costs", weight: Weight) -> Spent:
        """Return the seconds of a decode matmul."""
        k, n = self.shape.matrices[weight]
        users, peak = self.shape.users, self.peak(costs, weight)
        tile_bytes = self.precision.weight(weight).tile_bytes
        if self.site.prefetch:
            seconds = costs.ring_matmul_s(users, k, n, peak)
        elif self.site.fabric.ring_matmuls:
            seconds = costs.ring_matmul_s(users, k, n, peak, tile_bytes)
        else:
            if weight in (Weight.W1, Weight.W3):
                n = costs.whole_hidden(k, n)
            elif weight is Weight.W2:
                k = costs.whole_hidden(n, k)
            blocks = self._blocks(costs, weight, k, n)
            seconds = costs.bank_matmul_s(users, k, n, tile_bytes, peak, blocks)
        return seconds

    def _blocks(self, costs: "Costs", weight: Weight, k: int, n: int) -> int:
        """Return the number of blocks of the activation: the cores of the previous op."""
        if weight is Weight.WQKV:  # output of a norm
            return int(costs.norm_cores(k))
        if weight is Weight.WO:  # one head per core
            return self.shape.heads
        return int(costs.multicast_blocks(k, n))

    def take(self, costs: "Costs", weight: Weight) -> list[Charge]:
        """Return the charge of waiting for a weight."""
        if not self.site.prefetch:
            return []
        tile_bytes = self.precision.weight(weight).tile_bytes
        return [Take(costs.weight_bytes(*self.shape.matrices[weight], tile_bytes))]

    def consumed(self) -> list[Charge]:
        """Return the charge of releasing the weight."""
        return [Consumed()] if self.site.prefetch else []

    def matmul(self, costs: "Costs", name: str, weight: Weight) -> list[Charge]:
        """Return the charges of a matmul of decode."""
        seconds, cores = self.matmul_s(costs, weight), self.matmul_cores(costs)
        return [*self.take(costs, weight), Kernel(name, seconds, cores), *self.consumed()]
