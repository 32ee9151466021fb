"""What the model asks of a system in decode, and the part that all systems share.

Shapes are per chip; see `galaxy_mpi.arrays` for the letters. Every method returns values of the
dtype that `Precision` gives that op. `galaxy_mpi.systems.prefill_system` has the same for prefill.
"""

from abc import ABC, abstractmethod

import numpy as np

from galaxy_mpi.arrays import F32
from galaxy_mpi.ccl import CCL, BufferKey
from galaxy_mpi.mesh import Axis
from galaxy_mpi.prefetch import WeightId
from galaxy_mpi.systems.chip_ops import ChipOps, ModelShape
from galaxy_mpi.systems.kv_cache import KVCache, PageTable
from galaxy_mpi.systems.ops import HeadLayout

__all__ = ["DecodeSystem", "HeadLayout", "ModelShape"]


class DecodeSystem(ChipOps[CCL], ABC):
    """The ops of a layer on one chip, for one new token of every user; see `ChipOps`."""

    mode = "decode"

    def matmul(self, x_BI: F32, weight: WeightId) -> F32:
        """Multiply by a weight of a layer (in, out); not rounded yet."""
        return self.unit(x_BI, self.weights.take(weight), weight.name)

    @abstractmethod
    def add_norm(
        self, x_shard_BD: F32, residual_shard_BD: F32 | None, gain_shard_D: F32
    ) -> tuple[F32, F32]:
        """Return (normalised, new residual), both (B, D/C)."""

    @abstractmethod
    def qkv_heads(self, h_shard_BD: F32, wqkv: WeightId, bias: F32 | None) -> tuple[F32, F32, F32]:
        """Return q (B/C, N/R, H), k and v (B/C, K/R, H) of this column's users."""

    @abstractmethod
    def rotate(self, q_BNH: F32, k_BKH: F32, cos_sin: tuple[F32, F32]) -> tuple[F32, F32]:
        """Return q and k with their positions rotated in."""

    @abstractmethod
    def update_cache(self, cache: KVCache, k_BKH: F32, v_BKH: F32, table: PageTable) -> None:
        """Write k and v at each active user's position."""

    def attention(self, q_BNH: F32, cache: KVCache, table: PageTable) -> F32:
        """Attend to the cache up to each user's position: (B/C, N/R, H); not rounded yet."""
        out = np.zeros_like(q_BNH)
        for places, blocks_GP in table.same_length:
            q, keys, values = self.unit.attended(q_BNH[places], *cache.read(blocks_GP))
            out[places] = self.attend.decode(q, keys, values, table.positions_B[places])
        return out

    @abstractmethod
    def merge_heads(self, attention_BNH: F32) -> F32:
        """Return all users' heads of this row side by side: (B, N/R * H)."""

    def attention_output(self, attention_BX: F32, wo: WeightId) -> F32:
        """Return the attention block's output, (B, D/C), the same on all rows."""
        product = self.matmul(attention_BX, wo)
        return self.ccl.all_reduce(
            product, axis=Axis.ROWS, dtype=self.precision.reduced, key=BufferKey.WO
        )

    @abstractmethod
    def gate_up(self, h_shard_BD: F32, w1: WeightId, w3: WeightId) -> F32:
        """Return silu(gate) * up, gathered over the columns: (B, F/R)."""

    def down(self, act_BF: F32, w2: WeightId) -> F32:
        """Return the feed-forward block's output, (B, D/C), the same on all rows."""
        product = self.matmul(act_BF, w2)
        return self.ccl.all_reduce(
            product, axis=Axis.ROWS, dtype=self.precision.reduced, key=BufferKey.FF2
        )

    def logits(self, h_shard_BD: F32, head: list[WeightId]) -> F32:
        """Return this row's slice of the logits, (B, V/R), the same on all columns.

        Multiplies by the language-model head piece by piece, so that one piece is unpacked.
        """
        products = [self.unit(h_shard_BD, self.weights.read(piece), "lm_head") for piece in head]
        return self.ccl.all_reduce(
            np.concatenate(products, axis=1),
            axis=Axis.COLS,
            dtype=self.precision.logits,
            key=BufferKey.LM_HEAD,
        )
