"""The specialised system: fused ops on a ring, weights prefetched, buffers persistent.

Ops of decode are numbered as in the decode layer of the original (README, "One layer").
"""

import numpy as np

from galaxy_mpi.arrays import F32
from galaxy_mpi.ccl import BufferKey
from galaxy_mpi.kernels import attention_prefill, minimal_matmul, rotate, silu_mul
from galaxy_mpi.mesh import Axis
from galaxy_mpi.prefetch import WeightId
from galaxy_mpi.systems.fused_ops import (
    add_norm,
    all_gather_concat,
    distributed_norm,
    double_matmul_reduce_scatter,
    reduce_scatter_create_heads,
    with_bias,
)
from galaxy_mpi.systems.kv_cache import KVCache, PageTable
from galaxy_mpi.systems.prefill_ops import (
    all_gather_minimal_matmul,
    beside_each_other,
    prefix_attention,
    ring_attention,
)
from galaxy_mpi.systems.prefill_pass import PrefillPass
from galaxy_mpi.systems.prefill_system import PrefillSystem
from galaxy_mpi.systems.system import DecodeSystem

__all__ = ["GalaxyDecode", "GalaxyPrefill"]


class GalaxyDecode(DecodeSystem):
    """A decode step on the 8x4 Galaxy, as tt-metal's ``llama3_70b_galaxy`` runs it."""

    name = "galaxy"

    def add_norm(
        self, x_shard_BD: F32, residual_shard_BD: F32 | None, gain_shard_D: F32
    ) -> tuple[F32, F32]:
        """Op 1, 10: add, statistics, gather and normalise in one."""
        return add_norm(
            self.ccl,
            x_shard_BD,
            residual_shard_BD,
            gain_shard_D,
            dim=self.shape.dim,
            eps=self.shape.norm_eps,
            activation=self.precision.activation,
            statistics=self.precision.statistics,
        )

    def qkv_heads(self, h_shard_BD: F32, wqkv: WeightId, bias: F32 | None) -> tuple[F32, F32, F32]:
        """Op 2, 3: the scatter over users also splits the heads."""
        return reduce_scatter_create_heads(
            self.ccl,
            with_bias(self.matmul(h_shard_BD, wqkv), bias),
            self.shape.heads,
            dtype=self.precision.activation,
        )

    def rotate(self, q_BNH: F32, k_BKH: F32, cos_sin: tuple[F32, F32]) -> tuple[F32, F32]:
        """Op 4: q and k in one."""
        both = rotate(np.concatenate([q_BNH, k_BKH], axis=1), *cos_sin)
        n_heads = q_BNH.shape[1]
        rounded = self.precision.activation.round(both)
        return rounded[:, :n_heads], rounded[:, n_heads:]

    def update_cache(self, cache: KVCache, k_BKH: F32, v_BKH: F32, table: PageTable) -> None:
        """Op 5: k and v in one."""
        cache.write(k_BKH, v_BKH, table)

    def merge_heads(self, attention_BNH: F32) -> F32:
        """Op 7: the gather over users also lays the heads side by side."""
        return all_gather_concat(self.ccl, attention_BNH, dtype=self.precision.activation)

    def attention_output(self, attention_BX: F32, wo: WeightId) -> F32:
        """Op 8, 9."""
        return self.ccl.all_reduce(
            self.matmul(attention_BX, wo),
            axis=Axis.ROWS,
            dtype=self.precision.reduced,
            key=BufferKey.WO,
        )

    def gate_up(self, h_shard_BD: F32, w1: WeightId, w3: WeightId) -> F32:
        """Op 11 to 14."""
        gate_BF, up_BF = double_matmul_reduce_scatter(
            self.ccl,
            self.matmul(h_shard_BD, w1),
            lambda: self.matmul(h_shard_BD, w3),
            dtype=self.precision.reduced,
        )
        act = self.ccl.all_gather(
            silu_mul(gate_BF, up_BF),
            axis=Axis.COLS,
            dtype=self.precision.reduced,
            key=BufferKey.BINARY_MUL,
        )
        return beside_each_other(act)

    def down(self, act_BF: F32, w2: WeightId) -> F32:
        """Op 15, 16."""
        return self.ccl.all_reduce(
            self.matmul(act_BF, w2),
            axis=Axis.ROWS,
            dtype=self.precision.reduced,
            key=BufferKey.FF2,
        )

    def logits(self, h_shard_BD: F32, head: list[WeightId]) -> F32:
        """After the last layer: all-reduce over the columns, vocabulary cut over rows."""
        return self.ccl.all_reduce(
            self._head_product(h_shard_BD, head),
            axis=Axis.COLS,
            dtype=self.precision.logits,
            key=BufferKey.LM_HEAD,
        )


class GalaxyPrefill(PrefillSystem):
    """A prefill pass on the 8x4 Galaxy."""

    name = "galaxy"

    def norm(self, x_shard_SD: F32, gain_shard_D: F32) -> F32:
        """Statistics, gather and normalise."""
        return distributed_norm(
            self.ccl,
            x_shard_SD,
            gain_shard_D,
            dim=self.shape.dim,
            eps=self.shape.norm_eps,
            activation=self.precision.activation,
            statistics=self.precision.statistics,
        )

    def qkv_heads(
        self, h_shard_SD: F32, wqkv: WeightId, bias: F32 | None, work: PrefillPass
    ) -> tuple[F32, F32, F32]:
        """All-reduce over the columns: every column gets all heads of its row."""
        reduced = self.precision.reduced
        product = reduced.round(with_bias(self.matmul(h_shard_SD, wqkv, work), bias))
        qkv = self.ccl.all_reduce(product, axis=Axis.COLS, dtype=reduced, key=BufferKey.QKV)
        return self.shape.heads.split(qkv)

    def rotate(self, q_SNH: F32, k_SKH: F32, cos_sin: tuple[F32, F32]) -> tuple[F32, F32]:
        """One op each."""
        activation = self.precision.activation
        return activation.round(rotate(q_SNH, *cos_sin)), activation.round(rotate(k_SKH, *cos_sin))

    def fill_cache(
        self, cache: KVCache, k_SKH: F32, v_SKH: F32, work: PrefillPass
    ) -> tuple[F32, F32]:
        """Only the user's column keeps them."""
        k_SKH, v_SKH = (self.precision.kv_cache.round(values) for values in (k_SKH, v_SKH))
        for rows, user in work.parts:
            if user.column == self.column:
                n_tokens = len(user.tokens)
                keys, values = k_SKH[rows][:n_tokens], v_SKH[rows][:n_tokens]
                cache.fill(keys, values, user.blocks, start=user.start)
        return k_SKH, v_SKH

    def attention(
        self, q_SNH: F32, k_SKH: F32, v_SKH: F32, cache: KVCache, work: PrefillPass
    ) -> F32:
        """Queries cut over the columns where that pays; else all of them on every column."""
        activation = self.precision.activation
        k_KTH, v_KTH = (np.ascontiguousarray(t.swapaxes(0, 1)) for t in (k_SKH, v_SKH))
        _, first = work.parts[0]
        if work.start > 0:
            is_owner = first.column == self.column
            if is_owner:
                cached = cache.read(first.blocks[None, : work.start // cache.page_size])
                k_KTH = np.concatenate([cached[0][0], k_KTH], axis=1)
                v_KTH = np.concatenate([cached[1][0], v_KTH], axis=1)
            return prefix_attention(
                self.ccl,
                q_SNH,
                k_KTH,
                v_KTH,
                start=work.start,
                is_owner=is_owner,
                dtype=activation,
            )
        if work.is_distributed(self.ccl.size(Axis.COLS)):
            return ring_attention(
                self.ccl,
                q_SNH,
                k_KTH,
                v_KTH,
                length=work.length,
                column=self.column,
                dtype=activation,
            )
        mixed = np.empty(q_SNH.shape, np.float32)
        for rows, _ in work.parts:
            mixed[rows] = attention_prefill(q_SNH[rows], k_KTH[:, rows], v_KTH[:, rows], start=0)
        return activation.round(mixed.reshape(len(mixed), -1))

    def attention_output(self, attention_SX: F32, wo: WeightId, work: PrefillPass) -> F32:
        """Multiply, and all-reduce over the rows."""
        product = self._product(attention_SX, wo, work)
        return self.ccl.all_reduce(
            product, axis=Axis.ROWS, dtype=self.precision.reduced, key=BufferKey.WO
        )

    def gate_up(self, h_shard_SD: F32, w1: WeightId, w3: WeightId, work: PrefillPass) -> F32:
        """Two matmuls, two reduce-scatters, and one op for silu and product."""
        gate_SF, up_SF = (
            self._scattered(self._product(h_shard_SD, weight, work), key)
            for weight, key in ((w1, BufferKey.FF1), (w3, BufferKey.FF3))
        )
        return self.precision.reduced.round(silu_mul(gate_SF, up_SF))

    def down(self, act_shard_SF: F32, w2: WeightId, work: PrefillPass) -> F32:
        """All-gather over the columns, multiply, all-reduce over the rows."""
        reduced = self.precision.reduced
        if work.is_long:
            weight = self.weights.take(w2)
            product = all_gather_minimal_matmul(
                self.ccl,
                act_shard_SF,
                weight.shape[1],
                work.row_blocks,
                lambda act: self.unit(act, weight, w2.name),
                dtype=reduced,
            )
        else:
            act = self.ccl.all_gather(
                act_shard_SF, axis=Axis.COLS, dtype=reduced, key=BufferKey.BINARY_MUL
            )
            product = self._product(beside_each_other(act), w2, work)
        return self.ccl.all_reduce(product, axis=Axis.ROWS, dtype=reduced, key=BufferKey.FF2)

    def logits(self, h_shard_SD: F32, work: PrefillPass, head: list[WeightId]) -> F32:
        """All-reduce over the columns, vocabulary cut over rows."""
        return self.ccl.all_reduce(
            self._head_product(h_shard_SD, work, head),
            axis=Axis.COLS,
            dtype=self.precision.logits,
            key=BufferKey.LM_HEAD,
        )

    def _product(self, x_SI: F32, weight: WeightId, work: PrefillPass) -> F32:
        """Multiply, to `Precision.reduced`: long sequences in one op with the rounding."""
        reduced = self.precision.reduced
        if work.is_long:
            w = self.weights.take(weight)
            return minimal_matmul(
                x_SI,
                w.shape[1],
                work.row_blocks,
                lambda x: self.unit(x, w, weight.name),
                reduced.round,
            )
        return reduced.round(self.matmul(x_SI, weight, work))

    def _scattered(self, product_SF: F32, key: str) -> F32:
        """Sum over the columns and keep this column's part: (S, F/R) to (S, F/(R*C))."""
        n_cols = self.ccl.size(Axis.COLS)
        chunks = product_SF.reshape(len(product_SF), n_cols, -1).swapaxes(0, 1)
        return self.ccl.reduce_scatter(
            chunks, axis=Axis.COLS, dtype=self.precision.reduced, key=key
        )
