"""The specialised system: fused ops on a ring, weights prefetched, buffers persistent.

Ops are numbered as in the decode layer of the original (README, "One layer").
"""

import numpy as np

from galaxy_mpi.arrays import F32, Ints
from galaxy_mpi.ccl import BufferKey
from galaxy_mpi.kernels import rotate, silu_mul
from galaxy_mpi.mesh import Axis
from galaxy_mpi.prefetch import WeightId
from galaxy_mpi.systems.fused_ops import (
    add_norm,
    all_gather_concat,
    double_matmul_reduce_scatter,
    reduce_scatter_create_heads,
)
from galaxy_mpi.systems.kv_cache import KVCache
from galaxy_mpi.systems.system import System

__all__ = ["Galaxy"]


class Galaxy(System):
    """Llama on the 8x4 Galaxy, as tt-metal's ``llama3_70b_galaxy`` runs it."""

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

    def qkv_heads(self, h_shard_BD: F32, wqkv: WeightId) -> tuple[F32, F32, F32]:
        """Op 2, 3: the scatter over users also splits the heads."""
        return reduce_scatter_create_heads(
            self.ccl,
            self.matmul(h_shard_BD, wqkv),
            self.shape.heads,
            dtype=self.precision.activation,
        )

    def rotate(self, q_BNH: F32, k_BKH: F32, cos_sin: tuple[F32, F32]) -> tuple[F32, F32]:
        """Op 4: q and k in one."""
        both = rotate(np.concatenate([q_BNH, k_BKH], axis=1), *cos_sin)
        n_heads = q_BNH.shape[1]
        rounded = self.precision.activation.round(both)
        return rounded[:, :n_heads], rounded[:, n_heads:]

    def update_cache(self, cache: KVCache, k_BKH: F32, v_BKH: F32, positions_B: Ints) -> None:
        """Op 5: k and v in one."""
        cache.write(k_BKH, v_BKH, positions_B)

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
        return act.swapaxes(0, 1).reshape(len(h_shard_BD), -1)

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
