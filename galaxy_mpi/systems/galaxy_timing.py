"""The Galaxy's decode step as seconds: the ops of `GalaxyDecode`, charged to clocks, no values."""

from typing import Any

from galaxy_mpi.ccl import BufferKey
from galaxy_mpi.mesh import Axis
from galaxy_mpi.prefetch import WeightId
from galaxy_mpi.systems.decode_timing import DecodeTiming
from galaxy_mpi.systems.kv_cache import KVCache, PageTable

__all__ = ["GalaxyDecodeTiming"]


class GalaxyDecodeTiming(DecodeTiming):
    """Charges the ops of a decode step."""

    name = "galaxy"

    def add_norm(self, x: Any, residual: Any, gain: Any) -> tuple[Any, Any]:
        """Op 1, 10: the gather of the statistics takes one link."""
        sizes, costs = self.sizes, self.costs
        # The last norm of a step has no residual to write: one pass less.
        own_s = costs.norm_s(sizes.users, sizes.dim, passes=3 if gain == "norm" else 4)
        block = self._precision.statistics.tile_bytes
        name, key = self._norm_name(gain), BufferKey.LAYERNORM
        self._collective(name, key, Axis.COLS, own_s, block, links=1)
        return None, None

    def qkv_heads(self, h: Any, wqkv: WeightId, bias: Any) -> tuple[Any, Any, Any]:
        """Op 2, 3."""
        sizes = self.sizes
        self._matmul("qkv_matmul", wqkv)
        size = self._mesh.size(Axis.COLS)
        # Rows of users travel, not tiles: a column's users are fewer than a tile has rows.
        block = sizes.users_each * sizes.qkv * 2
        own_s = self._machine.stage_s + self.costs.add_s(size * sizes.users_each * sizes.qkv)
        name, key = "reduce_scatter_create_heads", BufferKey.CREATE_HEADS
        self._collective(name, key, Axis.COLS, own_s, block)
        return None, None, None

    def rotate(self, q: Any, k: Any, cos_sin: Any) -> tuple[Any, Any]:
        """Op 4: q and k of each user are a row of tiles each."""
        sizes = self.sizes
        elements = 2 * sizes.users_each * 32 * sizes.head_dim
        self._elementwise("rotary", elements, self._machine.worker_cores, 1)
        return None, None

    def update_cache(self, cache: KVCache, k: Any, v: Any, table: PageTable) -> None:
        """Op 5: one core for each user."""
        self.clock.op("update_cache", self.costs.update_cache_s(), self.sizes.users_each)

    def merge_heads(self, attention: Any) -> Any:
        """Op 7."""
        sizes = self.sizes
        block = sizes.users_each * sizes.heads * sizes.head_dim * 2
        name, own_s = "all_gather_concat", self._machine.stage_s
        self._collective(name, BufferKey.CONCAT_HEADS, Axis.COLS, own_s, block)

    def attention_output(self, attention: Any, wo: WeightId) -> Any:
        """Op 8, 9."""
        sizes = self.sizes
        self._matmul("wo_matmul", wo)
        tile_bytes = self._precision.reduced.tile_bytes
        self._all_reduce_at_once("all_reduce_wo", BufferKey.WO, Axis.ROWS, sizes.dim, tile_bytes)

    def gate_up(self, h: Any, w1: WeightId, w3: WeightId) -> Any:
        """Op 11 to 14: the first reduce-scatter runs beside the second matmul."""
        sizes, size, m = self.sizes, self._mesh.size(Axis.COLS), self._machine
        block = self._tiles(sizes.hidden_shard) * self._precision.reduced.tile_bytes
        add_s = self.costs.add_s(size * sizes.users * sizes.hidden_shard)
        fused, cores = "w1_w3_matmul_reduce_scatter_w1", self._matmul_cores
        self._take(w1)
        self.clock.compute(fused, self._matmul_s(w1), cores)
        self._consumed()
        self._take(w3)
        beside_s, axis = self._matmul_s(w3), Axis.COLS
        self._collective(
            fused, BufferKey.GATE_UP, axis, add_s, block, beside_s=beside_s, cores=cores
        )
        self._consumed()
        self._collective("reduce_scatter_w3", BufferKey.GATE_UP, axis, add_s, block, rides=True)
        tiles = self._tiles(sizes.hidden_shard)
        self._elementwise("silu_mul", tiles * 1024, min(m.worker_cores, tiles), 2)
        self._collective("all_gather_mlp", BufferKey.BINARY_MUL, axis, 0.0, block)

    def down(self, act: Any, w2: WeightId) -> Any:
        """Op 15, 16."""
        sizes = self.sizes
        self._matmul("w2_matmul", w2)
        tile_bytes = self._precision.reduced.tile_bytes
        self._all_reduce_at_once("all_reduce_w2", BufferKey.FF2, Axis.ROWS, sizes.dim, tile_bytes)

    def logits(self, h: Any, head: Any) -> Any:
        """After the last layer, up to the next tokens."""
        sizes, tile_bytes = self.sizes, self._precision.logits.tile_bytes
        self._head_matmul()
        name, key = "all_reduce_lm_head", BufferKey.LM_HEAD
        self._all_reduce_at_once(name, key, Axis.COLS, sizes.vocab, tile_bytes)
        self._choose()

    def _all_reduce_at_once(
        self, name: str, key: str, axis: Axis, width: int, tile_bytes: int
    ) -> None:
        """All blocks come to every member, which adds them once."""
        tiles = self._tiles(width)
        add_s = self.costs.add_s(self._mesh.size(axis) * tiles * 1024)
        self._collective(name, key, axis, add_s, tiles * tile_bytes)
