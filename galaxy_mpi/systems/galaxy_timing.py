"""The Galaxy's decode step as seconds: the ops of `GalaxyDecode`, charged to clocks, no values.

It has the methods of a `DecodeSystem`: the model runs the same program with it, every tensor is
None, and the page table has one user a column, the longest. Names of
ops are those of the published targets (galaxy_mpi/device/published/galaxy_6u.json).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from galaxy_mpi.device import Costs, MeshClock
from galaxy_mpi.device.machine import Machine
from galaxy_mpi.mesh import Axis, Mesh
from galaxy_mpi.prefetch import WeightId
from galaxy_mpi.systems.kv_cache import KVCache, PageTable
from galaxy_mpi.systems.precision import Precision

__all__ = ["ChipSizes", "GalaxyDecodeTiming"]

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


class GalaxyDecodeTiming:
    """Charges the ops of a decode step.

    Parameters
    ----------
    clock : MeshClock
    costs : Costs
    machine : Machine
    mesh : Mesh
    precision : Precision
    sizes : ChipSizes
    prefetch : bool
        Whether weights come through the circular buffer, or are read from DRAM by the matmul.
    """

    name = "galaxy"

    def __init__(
        self,
        clock: MeshClock,
        machine: Machine,
        mesh: Mesh,
        precision: Precision,
        sizes: ChipSizes,
        *,
        prefetch: bool = True,
    ) -> None:
        self.clock, self.costs, self.sizes = clock, Costs(machine), sizes
        self._machine, self._mesh, self._precision = machine, mesh, precision
        self._prefetch = prefetch
        self.weights = self
        self._norms = 0

    def begin_step(self) -> None:
        """Start the prefetcher."""
        self._norms = 0
        self.clock.begin_step()

    def end_step(self) -> None:
        """Do nothing: the prefetcher has delivered everything."""

    def add_norm(self, x: Any, residual: Any, gain: Any) -> tuple[Any, Any]:
        """Op 1, 10: the gather of the statistics takes one link."""
        sizes, costs, final = self.sizes, self.costs, gain == "norm"
        # The last norm of a step has no residual to write: one pass less.
        own_s = costs.norm_s(sizes.users, sizes.dim, passes=3 if final else 4)
        names = ("rms_norm_attention", "rms_norm_mlp")
        name = "final_norm" if final else names[self._norms % 2]
        self._norms += 1
        block = self._precision.statistics.tile_bytes
        self._collective(name, Axis.COLS, own_s, block, links=1)
        return None, None

    def qkv_heads(self, h: Any, wqkv: WeightId) -> tuple[Any, Any, Any]:
        """Op 2, 3."""
        sizes = self.sizes
        self._matmul("qkv_matmul", wqkv, sizes.dim, sizes.qkv)
        size = self._mesh.size(Axis.COLS)
        # Rows of users travel, not tiles: a column's users are fewer than a tile has rows.
        block = sizes.users_each * sizes.qkv * 2
        own_s = self._machine.stage_s + self.costs.add_s(size * sizes.users_each * sizes.qkv)
        self._collective("reduce_scatter_create_heads", Axis.COLS, own_s, block)
        return None, None, None

    def rotate(self, q: Any, k: Any, cos_sin: Any) -> tuple[Any, Any]:
        """Op 4: q and k of each user are a row of tiles each."""
        sizes = self.sizes
        elements = 2 * sizes.users_each * 32 * sizes.head_dim
        self.clock.op("rotary", self.costs.elementwise_s(elements, self._machine.worker_cores, 1))
        return None, None

    def update_cache(self, cache: KVCache, k: Any, v: Any, table: PageTable) -> None:
        """Op 5."""
        self.clock.op("update_cache", self.costs.update_cache_s())

    def attention(self, q: Any, cache: KVCache, table: PageTable) -> Any:
        """Op 6: in each column as long as its longest user takes."""
        sizes = self.sizes
        seconds = [
            self.costs.attention_s(
                sizes.users_each,
                sizes.heads,
                sizes.kv_heads,
                sizes.head_dim,
                max(int(position), 0),
                self._precision.kv_cache.tile_bytes,
            )
            for position in table.positions_B
        ]
        self.clock.op("attention", np.array(seconds))

    def merge_heads(self, attention: Any) -> Any:
        """Op 7."""
        sizes = self.sizes
        block = sizes.users_each * sizes.heads * sizes.head_dim * 2
        self._collective("all_gather_concat", Axis.COLS, self._machine.stage_s, block)

    def attention_output(self, attention: Any, wo: WeightId) -> Any:
        """Op 8, 9."""
        sizes = self.sizes
        self._matmul("wo_matmul", wo, sizes.heads * sizes.head_dim, sizes.dim)
        self._all_reduce("all_reduce_wo", Axis.ROWS, sizes.dim, self._precision.reduced.tile_bytes)

    def gate_up(self, h: Any, w1: WeightId, w3: WeightId) -> Any:
        """Op 11 to 14: the first reduce-scatter runs beside the second matmul."""
        sizes, size = self.sizes, self._mesh.size(Axis.COLS)
        block = self._tiles(sizes.hidden_shard) * self._precision.reduced.tile_bytes
        add_s = self.costs.add_s(size * sizes.users * sizes.hidden_shard)
        scatter = (
            self._machine.collective_s + add_s,
            self.costs.wire_s(size, block, self._machine.links),
        )
        fused = "w1_w3_matmul_reduce_scatter_w1"
        self._take(w1, sizes.dim, sizes.hidden)
        first_s = self._matmul_s(w1, sizes.dim, sizes.hidden)
        self.clock.compute(fused, first_s)
        self._consumed()
        self._take(w3, sizes.dim, sizes.hidden)
        self.clock.overlapped(
            fused, Axis.COLS, *scatter, self._matmul_s(w3, sizes.dim, sizes.hidden)
        )
        self._consumed()
        self.clock.collective("reduce_scatter_w3", Axis.COLS, *scatter)
        elements = self._tiles(sizes.hidden_shard) * 1024
        cores = min(self._machine.worker_cores, self._tiles(sizes.hidden_shard))
        self.clock.op("silu_mul", self.costs.elementwise_s(elements, cores, 2))
        self._collective("all_gather_mlp", Axis.COLS, 0.0, block)

    def down(self, act: Any, w2: WeightId) -> Any:
        """Op 15, 16."""
        sizes = self.sizes
        self._matmul("w2_matmul", w2, sizes.hidden, sizes.dim)
        self._all_reduce("all_reduce_w2", Axis.ROWS, sizes.dim, self._precision.reduced.tile_bytes)

    def logits(self, h: Any, head: Any) -> Any:
        """After the last layer, up to the next tokens."""
        sizes, precision = self.sizes, self._precision
        self.clock.op(
            "lm_head_matmul",
            self.costs.dram_matmul_s(
                sizes.users, sizes.dim, sizes.vocab, precision.head_weight.tile_bytes
            ),
        )
        self._all_reduce("all_reduce_lm_head", Axis.COLS, sizes.vocab, precision.logits.tile_bytes)
        self._sample()

    def _sample(self) -> None:
        """The candidates of each row, gathered in the column; the choice, a core for each user."""
        sizes, costs, m = self.sizes, self.costs, self._machine
        elements = self._tiles(sizes.vocab) * 1024
        copied_s = 2 * elements * 2 / m.dram_bytes_per_s
        self.clock.op("reshards", m.reshard_ops * (m.launch_s + copied_s))
        cast_s = costs.elementwise_s(elements, m.worker_cores, m.typecast_passes)
        self.clock.op("typecasts", 2 * cast_s)
        self.clock.op("top_k", costs.elementwise_s(elements, m.worker_cores, m.sort_passes))
        for name in ("all_gather_values", "all_gather_indices"):
            # Not persistent: a barrier goes round before the data does.
            self._collective(name, Axis.ROWS, 0.0, self._tiles(SAMPLED) * 2048, links=1, laps=2)
        candidates = 32 * SAMPLED * self._mesh.size(Axis.ROWS)
        self.clock.op("sampling", costs.elementwise_s(candidates, 1, m.sampling_passes))
        self.clock.compute("sampling_gap", m.sampling_gap_s)
        self.clock.compute("plus_one_gap", m.plus_one_gap_s)

    def _tiles(self, width: int) -> int:
        return -(-self.sizes.users // 32) * -(-width // 32)

    def _all_reduce(self, name: str, axis: Axis, width: int, tile_bytes: int) -> None:
        """All blocks come to every member, which adds them once."""
        tiles = self._tiles(width)
        add_s = self.costs.add_s(self._mesh.size(axis) * tiles * 1024)
        self._collective(name, axis, add_s, tiles * tile_bytes)

    def _collective(
        self,
        name: str,
        axis: Axis,
        own_s: float,
        block_bytes: float,
        *,
        links: float | None = None,
        laps: int = 1,
    ) -> None:
        machine = self._machine
        wire_s = self.costs.wire_s(self._mesh.size(axis), block_bytes, links or machine.links)
        self.clock.collective(name, axis, machine.collective_s + own_s, wire_s, laps=laps)

    def _matmul(self, name: str, weight: WeightId, k: int, n: int) -> None:
        self._take(weight, k, n)
        self.clock.op(name, self._matmul_s(weight, k, n))
        self._consumed()

    def _matmul_s(self, weight: WeightId, k: int, n: int) -> float:
        dtype = self._precision.weight(weight.name)
        if not self._prefetch:
            return self.costs.dram_matmul_s(self.sizes.users, k, n, dtype.tile_bytes)
        peak = self._machine.hifi2_flops_per_core_s
        if weight.name in ("w1", "w3"):
            peak = self._machine.lofi_flops_per_core_s
        return self.costs.ring_matmul_s(self.sizes.users, k, n, peak)

    def _take(self, weight: WeightId, k: int, n: int) -> None:
        if self._prefetch:
            tile_bytes = self._precision.weight(weight.name).tile_bytes
            self.clock.take(self.costs.weight_bytes(k, n, tile_bytes))

    def _consumed(self) -> None:
        if self._prefetch:
            self.clock.consumed()
