"""What prefill of all systems is charged alike: its ops as seconds, no values.

Sizes are those of the device: padded rows, all of them computed, on every column.
"""

from typing import Any

from galaxy_mpi.ccl import BufferKey
from galaxy_mpi.device import Charged
from galaxy_mpi.mesh import Axis
from galaxy_mpi.prefetch import WeightId
from galaxy_mpi.systems.prefill_pass import PrefillPass, causal_pairs
from galaxy_mpi.systems.timing import Emulated, TimingProgram

__all__ = ["PrefillTiming"]


class PrefillTiming(TimingProgram):
    """Charges the ops of a prefill pass, and of choosing its users' first tokens.

    Parameters
    ----------
    clock, emulated
        As in `TimingProgram`.
    work : PrefillPass
    """

    mode = "prefill"

    def __init__(self, clock: Charged, emulated: Emulated, work: PrefillPass) -> None:
        super().__init__(clock, emulated)
        clock.gap_s = emulated.machine.prefill_op_s
        self._rows, self._work = work.device_rows, work

    def embedded(self, x: Any) -> Any:
        """Nothing: an embedding is a look-up in DRAM."""

    def normalised(self, x: Any, gain: Any) -> Any:
        """Statistics, gather, normalise: two ops and a gather on one link."""
        rows = 32 if gain == "norm" else self._rows
        self._vector("norm", rows * self.sizes.dim, passes=4, n_ops=2)
        self._gather("norm", BufferKey.LAYERNORM, Axis.COLS, rows * 32 * 2, links=1)

    def qkv_heads(
        self, h: Any, wqkv: WeightId, bias: Any, work: PrefillPass
    ) -> tuple[Any, Any, Any]:
        """Matmul, all-reduce over the columns, create heads."""
        sizes = self.sizes
        self._matmul("qkv_matmul", wqkv)
        self._all_reduce("all_reduce_qkv", BufferKey.QKV, Axis.COLS, sizes.qkv)
        self._vector("create_heads", self._rows * sizes.qkv, passes=1)
        return None, None, None

    def norm_heads(self, q: Any, k: Any, q_gain: Any, k_gain: Any) -> tuple[Any, Any]:
        """One op each."""
        sizes = self.sizes
        for heads in (sizes.heads, sizes.kv_heads):
            self._vector("norm_heads", self._rows * heads * sizes.head_dim, passes=4)
        return None, None

    def rotate(self, q: Any, k: Any, cos_sin: Any) -> tuple[Any, Any]:
        """One op each."""
        sizes = self.sizes
        for heads in (sizes.heads, sizes.kv_heads):
            self._vector("rotary", self._rows * heads * sizes.head_dim, passes=2)
        return None, None

    def fill_cache(self, cache: Any, k: Any, v: Any, work: PrefillPass) -> tuple[Any, Any]:
        """Two casts and two writes."""
        sizes = self.sizes
        elements = 2 * self._rows * sizes.kv_heads * sizes.head_dim
        self._vector("fill_cache", elements, passes=2, n_ops=4)
        return None, None

    def attention(self, q: Any, k: Any, v: Any, cache: Any, work: PrefillPass) -> Any:
        """Causal work of every query on every column; then sums where a prefix is cached."""
        length = self._rows // work.n_parts
        self._attend(work.n_parts * causal_pairs([slice(work.start, work.start + length)]))
        if work.start:
            width = self.sizes.heads * self.sizes.head_dim
            self._all_reduce("all_reduce_attention", BufferKey.SDPA, Axis.COLS, width)
        self._concat_heads()

    def attention_output(self, attention: Any, wo: WeightId, work: PrefillPass) -> Any:
        """Matmul and all-reduce over the rows."""
        self._matmul("wo_matmul", wo)
        self._all_reduce("all_reduce_wo", BufferKey.WO, Axis.ROWS, self.sizes.dim)

    def gate_up(self, h: Any, w1: WeightId, w3: WeightId, work: PrefillPass) -> Any:
        """Two matmuls, two reduce-scatters, silu and product."""
        sizes = self.sizes
        for weight, key in ((w1, BufferKey.FF1), (w3, BufferKey.FF3)):
            self._matmul(f"{weight.name}_matmul", weight)
            self._scatter(f"reduce_scatter_{weight.name}", key, Axis.COLS, sizes.hidden_shard)
        self._vector("silu_mul", self._rows * sizes.hidden_shard, passes=2)

    def down(self, act: Any, w2: WeightId, work: PrefillPass) -> Any:
        """Gather, matmul, all-reduce."""
        block = self._packed_bytes(self.sizes.hidden_shard)
        self._gather("all_gather_mlp", BufferKey.BINARY_MUL, Axis.COLS, block)
        self._matmul("w2_matmul", w2)
        self._all_reduce("all_reduce_w2", BufferKey.FF2, Axis.ROWS, self.sizes.dim)

    def add(self, residual: Any, x: Any) -> Any:
        """Add to the residual."""
        self._vector("add", self._rows * self.sizes.stream, passes=1)

    def last_tiles(self, x: Any, work: PrefillPass) -> Any:
        """Nothing: the norm reads them where they are."""

    def logits(self, h: Any, work: PrefillPass, head: Any) -> Any:
        """One tile of rows, as in decode, and the choice of the first tokens."""
        self._head_matmul()
        self._head_all_reduce()
        self._sample()

    def _attend(self, pairs: float) -> None:
        """Charge attention over so many pairs of a query and a key, of all heads."""
        sizes, m = self.sizes, self._machine
        width = sizes.heads * sizes.head_dim
        peak = m.prefill_cores * self._peak("sdpa") * m.prefill_efficiency
        arithmetic_s = 4 * pairs * width / peak
        softmax_s = self.costs.vector_s(pairs * sizes.heads, m.prefill_cores, m.softmax_passes)
        self.clock.op("attention", m.launch_s + max(arithmetic_s, softmax_s), m.prefill_cores)

    def _concat_heads(self) -> None:
        width = self.sizes.heads * self.sizes.head_dim
        self._vector("concat_heads", self._rows * width, passes=1)

    def _head_all_reduce(self) -> None:
        sizes, tile_bytes = self.sizes, self._precision.logits.tile_bytes
        block = -(-sizes.vocab // 32) / self._mesh.size(Axis.COLS) * tile_bytes
        for _ in ("reduce-scatter", "all-gather"):
            self._gather("all_reduce_lm_head", BufferKey.LM_HEAD, Axis.COLS, block)

    def _packed_bytes(self, width: float) -> float:
        return self._rows / 32 * -(-width // 32) * self._precision.reduced.tile_bytes

    def _vector(self, name: str, elements: float, *, passes: float, n_ops: int = 1) -> None:
        for _ in range(n_ops):
            self._elementwise(name, elements / n_ops, self._machine.prefill_cores, passes)

    def _matmul(self, name: str, weight: WeightId) -> None:
        self.clock.op(name, self._matmul_s(weight), self._machine.prefill_cores)

    def _matmul_s(self, weight: WeightId) -> float:
        """Return the slower of reading the weight once and multiplying on all cores."""
        m, (k, n) = self._machine, self.sizes.matrices[weight.name]
        tile_bytes = self._precision.weight(weight.name).tile_bytes
        reading_s = self.costs.weight_bytes(k, n, tile_bytes) / m.dram_bytes_per_s
        arithmetic_s = (
            2
            * self._rows
            * k
            * n
            / (m.prefill_cores * self._peak(weight.name) * m.prefill_efficiency)
        )
        return m.launch_s + max(reading_s, arithmetic_s)

    def _gather(
        self, name: str, key: str, axis: Axis, block_bytes: float, links: float | None = None
    ) -> None:
        self._collective(name, key, axis, 0.0, block_bytes, links=links)

    def _scatter(self, name: str, key: str, axis: Axis, chunk_width: float) -> None:
        """A ring reduce-scatter: the wires of a gather of such chunks, and an add at every hop.

        Chunks are added as they stream in; what adding takes longer than the wire is on top.
        """
        m, size, block = self._machine, self._mesh.size(axis), self._packed_bytes(chunk_width)
        links = self._fabric.scatter_links or m.links
        add_s = self.costs.add_s((size - 1) * self._rows * chunk_width)
        own_s = max(0.0, add_s - self.costs.wire_s(size, block, links))
        self._collective(name, key, axis, own_s, block, links=links)

    def _all_reduce(self, name: str, key: str, axis: Axis, width: float) -> None:
        """Reduce-scatter, then all-gather."""
        chunk = width / self._mesh.size(axis)
        self._scatter(name, key, axis, chunk)
        self._gather(name, key, axis, self._packed_bytes(chunk))
