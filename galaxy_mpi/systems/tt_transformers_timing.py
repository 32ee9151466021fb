"""TT-Transformers' decode step as seconds: every op by itself, each with a launch and a gap.

An op that the Galaxy has inside a fused one makes the same passes here, on the same cores; what
it takes longer is launches, gaps, and the barriers and links of its collectives.
"""

from typing import Any

from galaxy_mpi.ccl import BufferKey
from galaxy_mpi.mesh import Axis
from galaxy_mpi.prefetch import WeightId
from galaxy_mpi.systems.decode_timing import DecodeTiming
from galaxy_mpi.systems.kv_cache import KVCache, PageTable

__all__ = ["ScatteredDecodeTiming", "TtTransformersDecodeTiming"]


class TtTransformersDecodeTiming(DecodeTiming):
    """Charges the ops of a decode step."""

    name = "tt_transformers"

    def add_norm(self, x: Any, residual: Any, gain: Any) -> tuple[Any, Any]:
        """Four ops: add, statistics, all-gather, normalise."""
        name, width = self._norm_name(gain), self.sizes.dim
        if gain != "norm":
            self._norm_part("add", width, 1)
        self._norm_part(f"{name}_pre", width, 1)
        block = self._precision.statistics.tile_bytes
        self._collective(f"all_gather_{name}", BufferKey.LAYERNORM, Axis.COLS, 0.0, block, links=1)
        self._norm_part(f"{name}_post", width, 2)
        return None, None

    def qkv_heads(self, h: Any, wqkv: WeightId, bias: Any) -> tuple[Any, Any, Any]:
        """Five ops: matmul, all-gather, sum, selection of the users, heads."""
        sizes, tile_bytes = self.sizes, self._precision.reduced.tile_bytes
        self._matmul("qkv_matmul", wqkv)
        self._all_reduce("qkv", BufferKey.QKV, Axis.COLS, sizes.qkv, tile_bytes)
        self._of_users("select_users", sizes.qkv)
        self._of_users("create_heads", sizes.qkv)
        return None, None, None

    def rotate(self, q: Any, k: Any, cos_sin: Any) -> tuple[Any, Any]:
        """Two ops."""
        elements = self.sizes.users_each * 32 * self.sizes.head_dim
        for name in ("rotary_q", "rotary_k"):
            self._elementwise(name, elements, self._machine.worker_cores, 1)
        return None, None

    def update_cache(self, cache: KVCache, k: Any, v: Any, table: PageTable) -> None:
        """Two ops, each with one core for each user."""
        for name in ("update_cache_k", "update_cache_v"):
            self.clock.op(name, self.costs.update_cache_s(), self.sizes.users_each)

    def merge_heads(self, attention: Any) -> Any:
        """Three ops: concatenate, all-gather, selection of the users."""
        width = self.sizes.heads * self.sizes.head_dim
        self._of_users("concat_heads", width)
        # Each column's users are padded to a whole tile, and that travels.
        block = -(-width // 32) * 2048
        self._collective("all_gather_users", BufferKey.CONCAT_HEADS, Axis.COLS, 0.0, block)
        self._of_users("select_users", width)

    def attention_output(self, attention: Any, wo: WeightId) -> Any:
        """Three ops: matmul, all-gather, sum."""
        self._matmul("wo_matmul", wo)
        tile_bytes = self._precision.reduced.tile_bytes
        self._all_reduce("wo", BufferKey.WO, Axis.ROWS, self.sizes.dim, tile_bytes)

    def gate_up(self, h: Any, w1: WeightId, w3: WeightId) -> Any:
        """Six ops: two matmuls, two reduce-scatters, silu with product, all-gather."""
        sizes, axis = self.sizes, Axis.COLS
        for weight in (w1, w3):
            self._matmul(f"{weight.name}_matmul", weight)
        for name, key in (("w1", BufferKey.FF1), ("w3", BufferKey.FF3)):
            self._scatter(f"reduce_scatter_{name}", key, axis, sizes.hidden_shard)
        tiles = self._tiles(sizes.hidden_shard)
        self._elementwise("silu_mul", tiles * 1024, min(self._machine.worker_cores, tiles), 2)
        block = tiles * self._precision.reduced.tile_bytes
        self._collective("all_gather_mlp", BufferKey.BINARY_MUL, axis, 0.0, block)

    def down(self, act: Any, w2: WeightId) -> Any:
        """Three ops: matmul, all-gather, sum."""
        self._matmul("w2_matmul", w2)
        tile_bytes = self._precision.reduced.tile_bytes
        self._all_reduce("w2", BufferKey.FF2, Axis.ROWS, self.sizes.dim, tile_bytes)

    def logits(self, h: Any, head: Any) -> Any:
        """After the last layer: matmul, all-gather, sum; then the next tokens."""
        self._head_matmul()
        tile_bytes = self._precision.logits.tile_bytes
        self._all_reduce("lm_head", BufferKey.LM_HEAD, Axis.COLS, self.sizes.vocab, tile_bytes)
        self._choose()

    def _norm_part(self, name: str, width: int, passes: int) -> None:
        seconds = self.costs.norm_part_s(self.sizes.users, width, passes=passes)
        self.clock.op(name, seconds, self.costs.norm_cores)

    def _of_users(self, name: str, width: int) -> None:
        """An op over the users of a column, padded to a tile."""
        tiles = -(-width // 32) * -(-self.sizes.users_each // 32)
        if self._mesh.size(Axis.COLS) > 1 or name != "select_users":
            self._elementwise(name, tiles * 1024, min(self._machine.worker_cores, tiles), 1)

    def _all_reduce(self, what: str, key: str, axis: Axis, width: int, tile_bytes: int) -> None:
        """All blocks come to every member; an op of its own adds them."""
        size, tiles = self._mesh.size(axis), self._tiles(width)
        if size > 1:
            self._collective(f"all_gather_{what}", key, axis, 0.0, tiles * tile_bytes)
            seconds = self._machine.launch_s + self.costs.add_s(size * tiles * 1024)
            self.clock.op(f"sum_{what}", seconds, self._machine.worker_cores)

    def _scatter(self, name: str, key: str, axis: Axis, width: int) -> None:
        """Partial sums go from hop to hop; what adding takes longer than the wire is on top."""
        size, tiles = self._mesh.size(axis), self._tiles(width)
        block = tiles * self._precision.reduced.tile_bytes
        links = self._fabric.scatter_links or self._machine.links
        add_s = self.costs.add_s((size - 1) * tiles * 1024)
        own_s = max(0.0, add_s - self.costs.wire_s(size, block, links))
        self._collective(name, key, axis, own_s, block)


class ScatteredDecodeTiming(TtTransformersDecodeTiming):
    """Charges the ops of `galaxy_mpi.systems.tt_transformers_1d.ScatteredDecode`."""

    def add_norm(self, x: Any, residual: Any, gain: Any) -> tuple[Any, Any]:
        """Three ops: add, all-gather of the stream, norm of the whole."""
        sizes, name = self.sizes, self._norm_name(gain)
        if gain != "norm":
            self._norm_part("add", sizes.stream, 1)
        block = self._tiles(sizes.stream) * self._precision.activation.tile_bytes
        self._collective(f"all_gather_{name}", BufferKey.LAYERNORM, Axis.ROWS, 0.0, block)
        self._norm_part(name, sizes.dim, 3)
        return None, None

    def attention_output(self, attention: Any, wo: WeightId) -> Any:
        """Two ops: matmul, reduce-scatter."""
        self._matmul("wo_matmul", wo)
        self._scatter("reduce_scatter_wo", BufferKey.WO, Axis.ROWS, self.sizes.stream)

    def down(self, act: Any, w2: WeightId) -> Any:
        """Two ops: matmul, reduce-scatter."""
        self._matmul("w2_matmul", w2)
        self._scatter("reduce_scatter_w2", BufferKey.FF2, Axis.ROWS, self.sizes.stream)
