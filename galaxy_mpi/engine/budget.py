"""What a model takes of a chip's memory, by kind, in device bytes with padding.

Sums of what must be there at once in decode; prefill's activations come and go and are left out.
"""

from dataclasses import dataclass

from galaxy_mpi.timing import Costs, Machine
from galaxy_mpi.dtypes import TILE, padded
from galaxy_mpi.engine.device_program import DeviceProgram
from galaxy_mpi.errors import ConfigError

__all__ = ["Budget"]

PAGE = 64
"""Positions of a cache block."""


@dataclass(frozen=True)
class Budget:
    """Bytes of one chip."""

    weights_bytes: int
    embedding_bytes: int
    kv_cache_bytes: int
    kv_cache_bytes_per_position: int
    """Of all users of a column, in all layers."""
    persistent_buffers_bytes: int
    """In L1, double, spread over the worker cores."""
    circular_buffer_bytes: int
    """In L1, spread over the ring cores."""

    @classmethod
    def of(
        cls, program: DeviceProgram, n_positions: int, circular_buffer_bytes: float | None = None
    ) -> "Budget":
        """Return what a model takes when every user has ``n_positions``."""
        model, machine, mesh = program.model, program.machine, program.mesh
        precision, sizes, costs = program.precision, program.sizes, Costs(machine)
        q_width = sizes.heads * sizes.head_dim
        layers = [precision.of(layer) for layer in range(model.n_layers)]
        layers_bytes = sum(
            costs.weight_bytes(*shape, of_layer.weight(name).tile_bytes)
            for name, shape in sizes.matrices.items()
            for of_layer in layers
            if name != "lm_head"
        )
        head_tiles = padded(sizes.dim) // TILE * (padded(sizes.vocab) // TILE)
        head_bytes = head_tiles * precision.head_weight.tile_bytes
        embedding_bytes = (
            model.vocab_size * sizes.stream * precision.embedding.tile_bytes // TILE**2
        )
        head_tiles_each = padded(sizes.head_dim) // TILE
        cached = sum(of_layer.kv_cache.tile_bytes for of_layer in layers) * head_tiles_each
        position_bytes = sizes.users_each * sizes.kv_heads * 2 * cached // TILE
        gathered = (
            (mesh.rows, sizes.dim),
            (mesh.cols, sizes.vocab),
            (mesh.cols, sizes.hidden_shard),
            (mesh.cols, sizes.hidden_shard),
        )
        packed = sum(members * padded(width) // TILE for members, width in gathered)
        rows = 2 * mesh.cols * sizes.users_each * (sizes.qkv + q_width)
        small = (mesh.cols + 2 * mesh.rows) * precision.statistics.tile_bytes
        tiles_high = padded(sizes.users) // TILE
        buffers = tiles_high * packed * precision.reduced.tile_bytes + rows + small
        circular = (
            machine.circular_buffer_bytes
            if circular_buffer_bytes is None
            else (circular_buffer_bytes)
        )
        return cls(
            weights_bytes=layers_bytes + head_bytes,
            embedding_bytes=embedding_bytes,
            kv_cache_bytes=position_bytes * padded(n_positions, PAGE),
            kv_cache_bytes_per_position=position_bytes,
            persistent_buffers_bytes=2 * buffers if program.is_persistent else 0,
            circular_buffer_bytes=int(circular) if program.has_prefetcher else 0,
        )

    @property
    def dram_bytes(self) -> int:
        """Bytes of DRAM."""
        return self.weights_bytes + self.embedding_bytes + self.kv_cache_bytes

    def check(self, machine: Machine) -> None:
        """Raise if the chip does not have so much.

        Raises
        ------
        ConfigError
            Says by how much it is over and what would fit.
        """
        over = self.dram_bytes - machine.dram_bytes
        if over > 0:
            room = machine.dram_bytes - self.weights_bytes - self.embedding_bytes
            fitting = int(max(room, 0) // self.kv_cache_bytes_per_position) // PAGE * PAGE
            fits = (
                f"{fitting} positions of each user would fit; lower --input-tokens, "
                f"--new-tokens or --users"
                if fitting
                else "the weights alone do not fit; take a larger --mesh or fewer --layers"
            )
            held = self.weights_bytes + self.embedding_bytes
            raise ConfigError(
                f"DRAM of a chip is over by {over / 2**20:.0f} MiB: weights and embedding "
                f"{held / 2**20:.0f}, cache {self.kv_cache_bytes / 2**20:.0f} of "
                f"{machine.dram_bytes / 2**20:.0f} MiB; {fits} (--allow-over-budget goes on)"
            )
        for what, n_bytes, cores in (
            ("circular buffer", self.circular_buffer_bytes, machine.ring_cores),
            ("persistent buffers", self.persistent_buffers_bytes, machine.worker_cores),
        ):
            over = n_bytes - cores * machine.l1_bytes
            if over > 0:
                raise ConfigError(
                    f"L1 is over by {over / cores:.0f} bytes on each of {cores:.0f} cores: the "
                    f"{what} has {n_bytes} bytes, {cores * machine.l1_bytes:.0f} would fit "
                    f"(--allow-over-budget goes on)"
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
