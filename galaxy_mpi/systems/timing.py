"""What the timing programs of all systems share: sizes, and how ops are charged.

A timing program has the methods of a system; the model runs with it as with the system itself,
every tensor being None, and each method charges a clock instead of computing. Buffer keys say to
which collective of the system a charge belongs: a run checks that they come in the same order.
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from galaxy_mpi.ccl import BufferKey
from galaxy_mpi.device import Charged, Collective, Costs, Machine
from galaxy_mpi.kernels import Fidelity
from galaxy_mpi.mesh import Axis, Mesh
from galaxy_mpi.systems.precision import Precision

__all__ = ["ChipSizes", "Emulated", "Fabric", "TimingProgram"]

SAMPLED = 32
"""Candidates that each row contributes, one tile wide."""

SCATTERS = frozenset({BufferKey.CREATE_HEADS, BufferKey.GATE_UP, BufferKey.FF1, BufferKey.FF3})
"""Buffers of reduce-scatters; the others are gathered into."""


@dataclass(frozen=True)
class ChipSizes:
    """Sizes of a model on one chip of a mesh, and of the batch."""

    users: int
    """All users of a step: rows of the activations."""
    users_each: int
    """Users of a column."""
    dim: int
    """D / C: rows of wqkv, w1 and w3."""
    stream: int
    """Columns of the residual: D / C, or D / N where it stays scattered over N chips."""
    qkv: int
    """(N + 2 K) H / R."""
    heads: int
    """N / R."""
    kv_heads: int
    """K / R."""
    head_dim: int
    hidden: int
    """F / R."""
    hidden_shard: int
    """F / (R C)."""
    vocab: int
    """V / R, padded to tiles on every row."""

    @property
    def matrices(self) -> dict[str, tuple[int, int]]:
        """Rows and columns of each matmul weight on a chip, (in, out)."""
        return {
            "wqkv": (self.dim, self.qkv),
            "wo": (self.heads * self.head_dim, self.dim),
            "w1": (self.dim, self.hidden),
            "w3": (self.dim, self.hidden),
            "w2": (self.hidden, self.dim),
            "lm_head": (self.dim, self.vocab),
        }


@dataclass(frozen=True)
class Fabric:
    """How a system uses the links of a machine."""

    is_line: bool = False
    """Whether a group is a line even where the machine has rings."""
    gather_links: float | None = None
    """Links that an all-gather takes; None: all there are."""
    scatter_links: float | None = None
    """Links that a reduce-scatter takes."""
    laps: int = 1
    """2 if buffers are made per call: a barrier goes round before the data does."""
    skips_alone: bool = False
    """Whether a group of one chip has no collectives."""

    def on(self, machine: Machine) -> Machine:
        """Return the machine as the system uses it."""
        return replace(machine, topology="line") if self.is_line else machine


@dataclass(frozen=True)
class Emulated:
    """What is charged: a model's sizes, in formats, on a mesh of a machine's chips."""

    machine: Machine
    mesh: Mesh
    precision: Precision
    sizes: ChipSizes
    fabric: Fabric = Fabric()


class TimingProgram:
    """Charges the ops that prefill and decode, and all systems, have in common.

    Parameters
    ----------
    clock : Charged
    emulated : Emulated
    """

    name: ClassVar[str]
    mode: ClassVar[str]

    def __init__(self, clock: Charged, emulated: Emulated) -> None:
        self.clock, self.costs, self.sizes = clock, Costs(emulated.machine), emulated.sizes
        self._machine, self._mesh = emulated.machine, emulated.mesh
        self._precision = self._precisions = emulated.precision
        self._fabric = emulated.fabric

    def begin_layer(self, layer: int) -> None:
        """Go on to the formats of a layer, or of what is behind the last."""
        self._precision = self._precisions.of(layer)

    def _tiles(self, width: int) -> int:
        return -(-self.sizes.users // 32) * -(-width // 32)

    def _peak(self, name: str) -> float:
        """Return the flops a second of a core at the fidelity of a weight's matmul, or `sdpa`."""
        machine = self._machine
        return {
            Fidelity.LOFI: machine.lofi_flops_per_core_s,
            Fidelity.HIFI2: machine.hifi2_flops_per_core_s,
            Fidelity.HIFI4: machine.hifi4_flops_per_core_s,
        }[self._precision.fidelity(name, self.mode)]

    def _elementwise(self, name: str, elements: float, cores: float, passes: float) -> None:
        self.clock.op(name, self.costs.elementwise_s(elements, cores, passes), cores)

    def _collective(
        self,
        name: str,
        key: str,
        axis: Axis,
        own_s: float,
        block_bytes: float,
        *,
        links: float | None = None,
        laps: int | None = None,
        **options: Any,
    ) -> None:
        """Charge a collective whose wires carry what an all-gather of such blocks does."""
        machine, fabric, size = self._machine, self._fabric, self._mesh.size(axis)
        if size == 1 and fabric.skips_alone:
            return
        usual = fabric.scatter_links if key in SCATTERS else fabric.gather_links
        wire_s = self.costs.wire_s(size, block_bytes, links or usual or machine.links)
        own_s += machine.collective_s
        laps = laps or fabric.laps
        self.clock.collective(Collective(name, key, axis, own_s, wire_s, laps=laps, **options))

    def _head_matmul(self) -> None:
        sizes, precision, m = self.sizes, self._precision, self._machine
        shape, tile_bytes = sizes.matrices["lm_head"], precision.head_weight.tile_bytes
        peak = self._peak("lm_head")
        seconds = self.costs.dram_matmul_s(sizes.users, *shape, tile_bytes, peak)
        self.clock.op("lm_head_matmul", seconds, m.worker_cores)

    def _sample(self) -> None:
        """The candidates of each row, gathered in the column; the choice, a core for each user."""
        sizes, m = self.sizes, self._machine
        elements = self._tiles(sizes.vocab) * 1024
        copied_s = 2 * elements * 2 / m.dram_bytes_per_s
        self.clock.op("reshards", m.reshard_ops * (m.launch_s + copied_s), m.worker_cores)
        cast_s = self.costs.elementwise_s(elements, m.worker_cores, m.typecast_passes)
        self.clock.op("typecasts", 2 * cast_s, m.worker_cores)
        self._elementwise("top_k", elements, m.worker_cores, m.sort_passes)
        for name, key in (
            ("all_gather_values", BufferKey.SAMPLING_VALUES),
            ("all_gather_indices", BufferKey.SAMPLING_INDICES),
        ):
            # Not persistent: a barrier goes round before the data does.
            block = self._tiles(SAMPLED) * 2048
            self._collective(name, key, Axis.ROWS, 0.0, block, links=1, laps=2)
        candidates = 32 * SAMPLED * self._mesh.size(Axis.ROWS)
        seconds = self.costs.elementwise_s(candidates, 1, m.sampling_passes)
        self.clock.op("sampling", seconds, sizes.users)
