"""The generic system: separate ops on a line, weights read when used, buffers made per call.

What is not here is the same in all systems (`galaxy_mpi.systems.system`, `.prefill_system`); hold
`galaxy_mpi/systems/galaxy.py` beside this file: the same methods in the same order. On a single
row or column of chips `galaxy_mpi.systems.tt_transformers_1d` takes the place of some.
"""

import numpy as np

from galaxy_mpi.arrays import F32
from galaxy_mpi.ccl import BufferKey
from galaxy_mpi.kernels import rotate, silu_mul
from galaxy_mpi.mesh import Axis
from galaxy_mpi.prefetch import WeightId
from galaxy_mpi.systems.kv_cache import KVCache, PageTable
from galaxy_mpi.systems.ops import beside_each_other, distributed_norm, split_columns, with_bias
from galaxy_mpi.systems.prefill_pass import PrefillPass
from galaxy_mpi.systems.prefill_system import PrefillSystem
from galaxy_mpi.systems.system import DecodeSystem

__all__ = ["TtTransformersDecode", "TtTransformersPrefill"]


class TtTransformersDecode(DecodeSystem):
    """A decode step on any mesh, as tt-metal's ``tt_transformers`` runs it."""

    name = "tt_transformers"

    def add_norm(
        self, x_shard_BD: F32, residual_shard_BD: F32 | None, gain_shard_D: F32
    ) -> tuple[F32, F32]:
        """Add; then statistics, all-gather, normalise."""
        if residual_shard_BD is not None:
            x_shard_BD = self.precision.activation.round(x_shard_BD + residual_shard_BD)
        normalised = distributed_norm(
            self.ccl,
            self.norm,
            x_shard_BD,
            gain_shard_D,
            activation=self.precision.activation,
            statistics=self.precision.statistics,
        )
        return normalised, x_shard_BD

    def qkv_heads(self, h_shard_BD: F32, wqkv: WeightId, bias: F32 | None) -> tuple[F32, F32, F32]:
        """All-reduce, then the selection of this column's users, then their heads."""
        qkv_BX = self.ccl.all_reduce(
            with_bias(self.matmul(h_shard_BD, wqkv), bias),
            axis=Axis.COLS,
            dtype=self.precision.reduced,
            key=BufferKey.QKV,
        )
        of_columns = np.split(qkv_BX, self.ccl.size(Axis.COLS))
        return self.shape.heads.split(of_columns[self.ccl.index(Axis.COLS)])

    def rotate(self, q_BNH: F32, k_BKH: F32, cos_sin: tuple[F32, F32]) -> tuple[F32, F32]:
        """One op each."""
        activation = self.precision.activation
        return activation.round(rotate(q_BNH, *cos_sin)), activation.round(rotate(k_BKH, *cos_sin))

    def update_cache(self, cache: KVCache, k_BKH: F32, v_BKH: F32, table: PageTable) -> None:
        """One op each."""
        cache.write_keys(k_BKH, table)
        cache.write_values(v_BKH, table)

    def merge_heads(self, attention_BNH: F32) -> F32:
        """Concatenate, all-gather, and select the users."""
        rows = attention_BNH.reshape(len(attention_BNH), -1)
        gathered = self.ccl.all_gather(
            rows, axis=Axis.COLS, dtype=self.precision.activation, key=BufferKey.CONCAT_HEADS
        )
        return gathered.reshape(-1, rows.shape[1])

    def gate_up(self, h_shard_BD: F32, w1: WeightId, w3: WeightId) -> F32:
        """Two matmuls, two reduce-scatters, one op for silu and product, and an all-gather."""
        reduced, n_cols = self.precision.reduced, self.ccl.size(Axis.COLS)
        products = [split_columns(self.matmul(h_shard_BD, w), n_cols) for w in (w1, w3)]
        gate_BF, up_BF = (
            self.ccl.reduce_scatter(product, axis=Axis.COLS, dtype=reduced, key=key)
            for product, key in zip(products, (BufferKey.FF1, BufferKey.FF3), strict=True)
        )
        act = silu_mul(gate_BF, up_BF)
        return beside_each_other(
            self.ccl.all_gather(act, axis=Axis.COLS, dtype=reduced, key=BufferKey.BINARY_MUL)
        )


class TtTransformersPrefill(PrefillSystem):
    """A prefill pass on any mesh."""

    name = "tt_transformers"

    def whole_attention(self, q_SNH: F32, k_KTH: F32, v_KTH: F32, work: PrefillPass) -> F32:
        """Every query on every column."""
        return self.every_query(q_SNH, k_KTH, v_KTH, work)

    def product(self, x_SI: F32, weight: WeightId, work: PrefillPass) -> F32:
        """Multiply, to `Precision.reduced`."""
        return self.precision.reduced.round(self.matmul(x_SI, weight, work))

    def down_product(self, act_shard_SF: F32, w2: WeightId, work: PrefillPass) -> F32:
        """All-gather over the columns, then multiply."""
        act = self.ccl.all_gather(
            act_shard_SF, axis=Axis.COLS, dtype=self.precision.reduced, key=BufferKey.BINARY_MUL
        )
        return self.product(beside_each_other(act), w2, work)
