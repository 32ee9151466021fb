"""Memory that a model needs on a chip, by kind, in device bytes with padding.

It sums what decode needs at the same time; activations of prefill are transient and left out.
"""

from dataclasses import dataclass
from typing import Protocol

from galaxy_mpi.dtypes import TILE, padded
from galaxy_mpi.errors import ConfigError
from galaxy_mpi.mesh import Mesh
from galaxy_mpi.program.charge import Cross
from galaxy_mpi.program.memory import Matrix
from galaxy_mpi.program.op import Program
from galaxy_mpi.timing.costs import Costs
from galaxy_mpi.timing.machine import Machine

__all__ = ["Budget"]

PAGE = 64
"""Positions per cache block."""


class MemorySource(Protocol):
    """Source of programs: `galaxy_mpi.models.Programs`."""

    mesh: Mesh
    prefetch: bool
    """Whether weights pass through the circular buffer."""

    @property
    def is_persistent(self) -> bool:
        """Whether the device keeps the buffers of collectives between steps."""

    @property
    def embedding_bytes(self) -> int:
        """Device bytes of a chip's shard of the embedding."""

    def on(self, machine: Machine) -> Machine:
        """Return the machine as the system uses it."""

    def decode(self) -> Program:
        """Return the program of a decode step."""


@dataclass(frozen=True)
class Budget:
    """Bytes of one chip."""

    weights_bytes: int
    embedding_bytes: int
    kv_cache_bytes: int
    kv_cache_bytes_per_position: int
    """For all users of a column, in all layers."""
    persistent_buffers_bytes: int
    """In L1, double-buffered, spread over the worker cores."""
    circular_buffer_bytes: int
    """In L1, spread over the ring cores."""
    circular_buffer_least_bytes: int = 0
    """Size of the two largest prefetched weights, if a size was requested."""

    @classmethod
    def of(
        cls,
        programs: MemorySource,
        machine: Machine,
        n_positions: int,
        circular_buffer_bytes: float | None = None,
    ) -> "Budget":
        """Return the memory that a model needs when every user has ``n_positions``.

        Parameters
        ----------
        programs : MemorySource
        machine : Machine
        n_positions : int
        circular_buffer_bytes : float, optional
            The machine's by default.
        """
        program, costs = programs.decode(), Costs(programs.on(machine))
        circular = circular_buffer_bytes or machine.circular_buffer_bytes
        position_bytes = sum(use.op.cached_bytes() for use in program.uses)
        buffers_bytes = _buffers_bytes(program, costs, programs.mesh)
        matrices = [matrix for use in program.uses for matrix in use.op.matrices()]
        fed = [_matrix_bytes(costs, matrix) for matrix in matrices if matrix.is_prefetched]
        return cls(
            weights_bytes=sum(
                _matrix_bytes(costs, matrix) for use in program.uses for matrix in use.op.matrices()
            ),
            embedding_bytes=programs.embedding_bytes,
            kv_cache_bytes=position_bytes * padded(n_positions, PAGE),
            kv_cache_bytes_per_position=position_bytes,
            persistent_buffers_bytes=2 * buffers_bytes if programs.is_persistent else 0,
            circular_buffer_bytes=int(circular) if programs.prefetch else 0,
            circular_buffer_least_bytes=2 * max(fed, default=0) if circular_buffer_bytes else 0,
        )

    @property
    def dram_bytes(self) -> int:
        """Bytes of DRAM."""
        return self.weights_bytes + self.embedding_bytes + self.kv_cache_bytes

    def check(self, machine: Machine) -> None:
        """Raise if the chip does not have enough memory.

        Raises
        ------
        ConfigError
            Says how much is missing and what would fit.
        """
        if self.dram_bytes > machine.dram_bytes:
            room = machine.dram_bytes - self.weights_bytes - self.embedding_bytes
            fitting = int(max(room, 0) // self.kv_cache_bytes_per_position) // PAGE * PAGE
            fits = (
                f"{fitting} positions per user would fit; lower --input-tokens, "
                f"--new-tokens or --users"
                if fitting
                else "the weights alone do not fit; use a larger --mesh or fewer --layers"
            )
            held = self.weights_bytes + self.embedding_bytes
            raise ConfigError(
                f"a chip needs {_mib(self.dram_bytes)} MiB of DRAM (weights and embedding "
                f"{_mib(held)}, KV cache {_mib(self.kv_cache_bytes)}) and has "
                f"{_mib(machine.dram_bytes)}; {fits} (--allow-over-budget ignores this)"
            )
        if 0 < self.circular_buffer_bytes < self.circular_buffer_least_bytes:
            raise ConfigError(
                f"--circular-buffer-bytes must hold two weights, "
                f"{self.circular_buffer_least_bytes} bytes, got {self.circular_buffer_bytes} "
                f"(--allow-over-budget ignores this)"
            )
        for what, n_bytes, cores in (
            ("circular buffer", self.circular_buffer_bytes, machine.ring_cores),
            ("persistent buffers", self.persistent_buffers_bytes, machine.worker_cores),
        ):
            over = n_bytes - cores * machine.l1_bytes
            if over > 0:
                raise ConfigError(
                    f"each of {cores:.0f} cores lacks {over / cores:.0f} bytes of L1: the "
                    f"{what} needs {n_bytes} bytes, {cores * machine.l1_bytes:.0f} would fit "
                    f"(--allow-over-budget ignores this)"
                )

    def to_dict(self) -> dict[str, int]:
        """Return the figures of the report."""
        return {
            "weights_bytes": self.weights_bytes,
            "embedding_bytes": self.embedding_bytes,
            "kv_cache_bytes": self.kv_cache_bytes,
            "dram_bytes": self.dram_bytes,
            "persistent_buffers_bytes": self.persistent_buffers_bytes,
            "circular_buffer_bytes": self.circular_buffer_bytes,
        }


def _mib(n_bytes: float) -> str:
    return f"{n_bytes / 2**20:,.0f}"


def _matrix_bytes(costs: Costs, matrix: Matrix) -> int:
    if matrix.is_prefetched:
        return costs.weight_bytes(matrix.rows, matrix.columns, matrix.dtype.tile_bytes)
    tiles = padded(matrix.rows) // TILE * (padded(matrix.columns) // TILE)
    return tiles * matrix.dtype.tile_bytes


def _buffers_bytes(program: Program, costs: Costs, mesh: Mesh) -> int:
    """Return the bytes of the buffers of a step's collectives, each once.

    A buffer has room for what each member of a group sends. Collectives of the same kind, axis,
    format and shape share one buffer; a wire that the device sends in consecutive parts needs room
    for one part.
    """
    buffers: dict[tuple[object, ...], int] = {}
    for use in program.uses:
        charges = use.op.priced(costs)
        crossed = [charge.wire for charge in charges if isinstance(charge, Cross)]
        for wire in set(crossed):
            what = (wire.axis, wire.kind, wire.dtype.name, wire.shape)
            buffers[what] = mesh.size(wire.axis) * wire.n_bytes // crossed.count(wire)
    return sum(buffers.values())
