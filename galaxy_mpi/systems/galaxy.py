"""The specialised system: fused ops on a ring, weights prefetched, buffers persistent.

Ops of decode are numbered as in the decode layer of the original (README, "One layer"). What is
not here is the same in all systems (`galaxy_mpi.systems.system`, `.prefill_system`); hold
`galaxy_mpi/systems/tt_transformers.py` beside this file: the same methods in the same order.
"""

import numpy as np

from galaxy_mpi.arrays import F32
from galaxy_mpi.ccl import BufferKey
from galaxy_mpi.kernels import minimal_matmul, rotate, silu_mul
from galaxy_mpi.mesh import Axis
from galaxy_mpi.prefetch import WeightId
from galaxy_mpi.systems.fused_ops import (
    add_norm,
    all_gather_concat,
    double_matmul_reduce_scatter,
    reduce_scatter_create_heads,
)
from galaxy_mpi.systems.kv_cache import KVCache, PageTable
from galaxy_mpi.systems.ops import beside_each_other, with_bias
from galaxy_mpi.systems.prefill_ops import all_gather_minimal_matmul, ring_attention
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
            self.norm,
            x_shard_BD,
            residual_shard_BD,
            gain_shard_D,
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

    def gate_up(self, h_shard_BD: F32, w1: WeightId, w3: WeightId) -> F32:
        """Op 11 to 14: the first product travels while the second is computed."""
        reduced = self.precision.reduced
        gate_BF, up_BF = double_matmul_reduce_scatter(
            self.ccl,
            self.matmul(h_shard_BD, w1),
            lambda: self.matmul(h_shard_BD, w3),
            dtype=reduced,
        )
        act = silu_mul(gate_BF, up_BF)
        return beside_each_other(
            self.ccl.all_gather(act, axis=Axis.COLS, dtype=reduced, key=BufferKey.BINARY_MUL)
        )


class GalaxyPrefill(PrefillSystem):
    """A prefill pass on the 8x4 Galaxy."""

    name = "galaxy"

    def whole_attention(self, q_SNH: F32, k_KTH: F32, v_KTH: F32, work: PrefillPass) -> F32:
        """Queries cut over the columns where that pays; else all of them on every column."""
        if work.is_distributed(self.ccl.size(Axis.COLS)):
            return ring_attention(
                self.ccl,
                self.attend,
                q_SNH,
                k_KTH,
                v_KTH,
                length=work.length,
                column=self.column,
                dtype=self.precision.activation,
            )
        return self.every_query(q_SNH, k_KTH, v_KTH, work)

    def product(self, x_SI: F32, weight: WeightId, work: PrefillPass) -> F32:
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

    def down_product(self, act_shard_SF: F32, w2: WeightId, work: PrefillPass) -> F32:
        """All-gather over the columns and multiply: long sequences in one op."""
        reduced = self.precision.reduced
        if work.is_long:
            weight = self.weights.take(w2)
            return all_gather_minimal_matmul(
                self.ccl,
                act_shard_SF,
                weight.shape[1],
                work.row_blocks,
                lambda act: self.unit(act, weight, w2.name),
                dtype=reduced,
            )
        act = self.ccl.all_gather(
            act_shard_SF, axis=Axis.COLS, dtype=reduced, key=BufferKey.BINARY_MUL
        )
        return self.product(beside_each_other(act), w2, work)
