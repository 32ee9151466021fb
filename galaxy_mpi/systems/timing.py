"""What the timing programs of all systems share: sizes, and how ops are charged.

A timing program has the methods of a system; the model runs with it as with the system itself,
every tensor being None, and each method charges a clock instead of computing. Buffer keys say to
which collective of the system a charge belongs: a run checks that they come in the same order.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from galaxy_mpi.ccl import BufferKey
from galaxy_mpi.device import Charged, Collective, Costs, Machine
from galaxy_mpi.kernels import Fidelity
from galaxy_mpi.mesh import Axis, Mesh
from galaxy_mpi.prefetch import WeightId
from galaxy_mpi.systems.precision import Precision

__all__ = ["ChipSizes", "Emulated", "TimingProgram"]

SAMPLED = 32
"""Candidates that each row contributes, one tile wide."""


@dataclass(frozen=True)
class ChipSizes:
    """Sizes of a model on one chip of a mesh, and of the batch."""

    users: int
    """All users of a step: rows of the activations."""
    users_each: int
    """Users of a column."""
    dim: int
    """D / C."""
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
class Emulated:
    """What is charged: a model's sizes, in formats, on a mesh of a machine's chips."""

    machine: Machine
    mesh: Mesh
    precision: Precision
    sizes: ChipSizes


class TimingProgram:
    """Charges the ops that prefill and decode, and all systems, have in common.

    Parameters
    ----------
    clock : Charged
    emulated : Emulated
    """

    name: ClassVar[str]

    def __init__(self, clock: Charged, emulated: Emulated) -> None:
        self.clock, self.costs, self.sizes = clock, Costs(emulated.machine), emulated.sizes
        self._machine, self._mesh = emulated.machine, emulated.mesh
        self._precision = emulated.precision

    def _tiles(self, width: int) -> int:
        return -(-self.sizes.users // 32) * -(-width // 32)

    def _peak(self, weight: WeightId) -> float:
        """Return the flops a second of a core at the fidelity of a weight's matmul."""
        if self._precision.fidelity(weight.name) is Fidelity.LOFI:
            return self._machine.lofi_flops_per_core_s
        return self._machine.hifi2_flops_per_core_s

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
        **options: Any,
    ) -> None:
        """Charge a collective whose wires carry what an all-gather of such blocks does."""
        machine = self._machine
        wire_s = self.costs.wire_s(self._mesh.size(axis), block_bytes, links or machine.links)
        own_s += machine.collective_s
        self.clock.collective(Collective(name, key, axis, own_s, wire_s, **options))

    def _head_matmul(self) -> None:
        sizes, precision, m = self.sizes, self._precision, self._machine
        shape, tile_bytes = sizes.matrices["lm_head"], precision.head_weight.tile_bytes
        seconds = self.costs.dram_matmul_s(sizes.users, *shape, tile_bytes)
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
