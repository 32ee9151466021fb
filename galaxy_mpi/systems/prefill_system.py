"""What the model asks of a system in prefill, and the part that all systems share.

S rows of a pass: positions of one user, or of several side by side (`PrefillPass`). Shapes are
per chip. Every method returns values of the dtype that `Precision` gives that op.
"""

from abc import ABC, abstractmethod
from functools import partial

import numpy as np

from galaxy_mpi.arrays import F32
from galaxy_mpi.ccl import BufferKey, PrefillCCL
from galaxy_mpi.dtypes import TILE
from galaxy_mpi.kernels import matmul, rotate, silu_mul
from galaxy_mpi.mesh import Axis
from galaxy_mpi.prefetch import WeightId
from galaxy_mpi.systems.chip_ops import ChipOps
from galaxy_mpi.systems.kv_cache import KVCache
from galaxy_mpi.systems.ops import distributed_norm, split_columns, with_bias
from galaxy_mpi.systems.prefill_ops import prefix_attention
from galaxy_mpi.systems.prefill_pass import PrefillPass

__all__ = ["PrefillSystem"]


class PrefillSystem(ChipOps[PrefillCCL], ABC):
    """The ops of a layer on one chip, for the prompts of a pass; see `ChipOps`."""

    mode = "prefill"

    @property
    def column(self) -> int:
        """This chip's."""
        return self.ccl.index(Axis.COLS)

    def matmul(self, x_SI: F32, weight: WeightId, work: PrefillPass) -> F32:
        """Multiply by a weight of a layer (in, out); not rounded yet."""
        w = self.weights.take(weight)
        return matmul(x_SI, w.shape[1], work.row_blocks, lambda x: self.unit(x, w, weight.name))

    def normalised(self, x_shard_SD: F32, gain_shard_D: F32) -> F32:
        """Return the normalised stream, (S, D/C): statistics, gather, normalise."""
        return distributed_norm(
            self.ccl,
            self.norm,
            x_shard_SD,
            gain_shard_D,
            activation=self.precision.activation,
            statistics=self.precision.statistics,
        )

    def qkv_heads(
        self, h_shard_SD: F32, wqkv: WeightId, bias: F32 | None, work: PrefillPass
    ) -> tuple[F32, F32, F32]:
        """Return q (S, N/R, H), k and v (S, K/R, H): this row's heads, the same on all columns."""
        reduced = self.precision.reduced
        product = reduced.round(with_bias(self.matmul(h_shard_SD, wqkv, work), bias))
        qkv = self.ccl.all_reduce(product, axis=Axis.COLS, dtype=reduced, key=BufferKey.QKV)
        return self.shape.heads.split(qkv)

    def rotate(self, q_SNH: F32, k_SKH: F32, cos_sin: tuple[F32, F32]) -> tuple[F32, F32]:
        """Return q and k with their positions rotated in, one op each."""
        activation = self.precision.activation
        return activation.round(rotate(q_SNH, *cos_sin)), activation.round(rotate(k_SKH, *cos_sin))

    def fill_cache(
        self, cache: KVCache, k_SKH: F32, v_SKH: F32, work: PrefillPass
    ) -> tuple[F32, F32]:
        """Write k and v of the users of this column; return both as the cache holds them."""
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
        """Attend causally; return this row's heads side by side, (S, N/R * H), on all columns."""
        q_SNH, k_SKH, v_SKH = self.unit.attended(q_SNH, k_SKH, v_SKH)
        k_KTH, v_KTH = (np.ascontiguousarray(t.swapaxes(0, 1)) for t in (k_SKH, v_SKH))
        if work.start == 0:
            return self.whole_attention(q_SNH, k_KTH, v_KTH, work)
        _, first = work.parts[0]
        is_owner = first.column == self.column
        if is_owner:
            cached = cache.read(first.blocks[None, : work.start // cache.page_size])
            _, *cached_KTH = self.unit.attended(q_SNH, cached[0][0], cached[1][0])
            k_KTH = np.concatenate([cached_KTH[0], k_KTH], axis=1)
            v_KTH = np.concatenate([cached_KTH[1], v_KTH], axis=1)
        return prefix_attention(
            self.ccl,
            self.attend,
            q_SNH,
            k_KTH,
            v_KTH,
            start=work.start,
            is_owner=is_owner,
            dtype=self.precision.activation,
        )

    @abstractmethod
    def whole_attention(self, q_SNH: F32, k_KTH: F32, v_KTH: F32, work: PrefillPass) -> F32:
        """Attend with nothing cached; result as that of `attention`."""

    def every_query(self, q_SNH: F32, k_KTH: F32, v_KTH: F32, work: PrefillPass) -> F32:
        """Attend with all queries on this chip, user by user."""
        mixed = np.empty(q_SNH.shape, np.float32)
        for rows, _ in work.parts:
            mixed[rows] = self.attend.prefill(q_SNH[rows], k_KTH[:, rows], v_KTH[:, rows], start=0)
        return self.precision.activation.round(mixed.reshape(len(mixed), -1))

    @abstractmethod
    def product(self, x_SI: F32, weight: WeightId, work: PrefillPass) -> F32:
        """Multiply by a weight of a layer, to `Precision.reduced`."""

    def attention_output(self, attention_SX: F32, wo: WeightId, work: PrefillPass) -> F32:
        """Return the attention block's output, (S, D/C), the same on all rows."""
        product = self.product(attention_SX, wo, work)
        return self.ccl.all_reduce(
            product, axis=Axis.ROWS, dtype=self.precision.reduced, key=BufferKey.WO
        )

    def gate_up(self, h_shard_SD: F32, w1: WeightId, w3: WeightId, work: PrefillPass) -> F32:
        """Return silu(gate) * up, cut over the columns, (S, F/(R*C)): an op for each product."""
        reduced, n_cols = self.precision.reduced, self.ccl.size(Axis.COLS)
        gate_SF, up_SF = (
            self.ccl.reduce_scatter(
                split_columns(self.product(h_shard_SD, weight, work), n_cols),
                axis=Axis.COLS,
                dtype=reduced,
                key=key,
            )
            for weight, key in ((w1, BufferKey.FF1), (w3, BufferKey.FF3))
        )
        return reduced.round(silu_mul(gate_SF, up_SF))

    @abstractmethod
    def down_product(self, act_shard_SF: F32, w2: WeightId, work: PrefillPass) -> F32:
        """Gather the activations over the columns and multiply: (S, D/C), to be summed."""

    def down(self, act_shard_SF: F32, w2: WeightId, work: PrefillPass) -> F32:
        """Return the feed-forward block's output, (S, D/C), the same on all rows."""
        product = self.down_product(act_shard_SF, w2, work)
        return self.ccl.all_reduce(
            product, axis=Axis.ROWS, dtype=self.precision.reduced, key=BufferKey.FF2
        )

    def logits(self, h_shard_SD: F32, work: PrefillPass, head: list[WeightId]) -> F32:
        """Return this row's slice of each user's logits, (U, V/R), the same on all columns.

        Parameters
        ----------
        h_shard_SD : ndarray of shape (32 U, D/C)
            Of `last_tiles`, normalised.
        work : PrefillPass
        head : list of WeightId
        """
        return self._reduced_logits(self._head_product(h_shard_SD, work, head))

    def all_logits(self, h_shard_SD: F32, work: PrefillPass, head: list[WeightId]) -> F32:
        """Return this row's slice of the logits of every row, (S, V/R), as `logits` makes them."""
        pieces = []
        for piece in head:
            w = self.weights.read(piece)
            by_w = partial(self.unit, w=w, name="lm_head")
            pieces.append(matmul(h_shard_SD, w.shape[1], work.row_blocks, by_w))
        return self._reduced_logits(np.concatenate(pieces, axis=1))

    def last_tiles(self, x_shard_SD: F32, work: PrefillPass) -> F32:
        """Return the tile of 32 rows that holds each user's last token: (32 U, D/C)."""
        last = [rows.start + len(user.tokens) - 1 for rows, user in work.parts]
        return np.concatenate([x_shard_SD[row // TILE * TILE :][:TILE] for row in last])

    def add(self, residual_shard_SD: F32, x_shard_SD: F32) -> F32:
        """Return the residual with a block's output added."""
        return self.precision.prefill_residual.round(residual_shard_SD + x_shard_SD)

    def embedded(self, x_shard_SD: F32) -> F32:
        """Return embeddings as the residual holds them."""
        return self.precision.prefill_residual.round(x_shard_SD)

    def _reduced_logits(self, partial_SV: F32) -> F32:
        return self.ccl.all_reduce(
            partial_SV, axis=Axis.COLS, dtype=self.precision.logits, key=BufferKey.LM_HEAD
        )

    def _head_product(self, h_shard_SD: F32, work: PrefillPass, head: list[WeightId]) -> F32:
        """Multiply tile by tile, so that a user's bits do not depend on who else is there."""
        tiles = h_shard_SD.reshape(len(work.users), TILE, -1)
        rows = [(len(user.tokens) - 1) % TILE for user in work.users]
        pieces = []
        for piece in head:
            weight = self.weights.read(piece)
            pieces.append(
                np.stack(
                    [
                        self.unit(tile, weight, "lm_head")[row]
                        for tile, row in zip(tiles, rows, strict=True)
                    ]
                )
            )
        return np.concatenate(pieces, axis=1)
