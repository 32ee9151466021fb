"""What the model asks of a system in prefill, and the part that all systems share.

S rows of a pass: positions of one user, or of several side by side (`PrefillPass`). Shapes are
per chip. Every method returns values of the dtype that `Precision` gives that op.
"""

from abc import ABC, abstractmethod
from functools import partial
from typing import ClassVar

import numpy as np

from galaxy_mpi.arrays import F32
from galaxy_mpi.ccl import BufferKey, PrefillCCL
from galaxy_mpi.dtypes import TILE
from galaxy_mpi.kernels import matmul, rms_norm_heads
from galaxy_mpi.mesh import Axis
from galaxy_mpi.prefetch import WeightId, WeightSource
from galaxy_mpi.systems.kv_cache import KVCache
from galaxy_mpi.systems.matrix_unit import MatrixUnit
from galaxy_mpi.systems.precision import Precision
from galaxy_mpi.systems.prefill_pass import PrefillPass
from galaxy_mpi.systems.system import ModelShape

__all__ = ["PrefillSystem"]


class PrefillSystem(ABC):
    """The ops of a layer on one chip, for the prompts of a pass.

    Parameters
    ----------
    ccl : PrefillCCL
    weights : WeightSource
    precision : Precision
    shape : ModelShape
    unit : MatrixUnit
    column : int
        This chip's.
    """

    name: ClassVar[str]

    def __init__(
        self,
        ccl: PrefillCCL,
        weights: WeightSource,
        precision: Precision,
        shape: ModelShape,
        unit: MatrixUnit,
        column: int,
    ) -> None:
        self.ccl, self.weights, self.precision, self.shape = ccl, weights, precision, shape
        self.unit = unit
        self.column = column

    def matmul(self, x_SI: F32, weight: WeightId, work: PrefillPass) -> F32:
        """Multiply by a weight of a layer (in, out); not rounded yet."""
        w = self.weights.take(weight)
        return matmul(x_SI, w.shape[1], work.row_blocks, lambda x: self.unit(x, w, weight.name))

    @abstractmethod
    def norm(self, x_shard_SD: F32, gain_shard_D: F32) -> F32:
        """Return the normalised stream, (S, D/C)."""

    @abstractmethod
    def qkv_heads(
        self, h_shard_SD: F32, wqkv: WeightId, bias: F32 | None, work: PrefillPass
    ) -> tuple[F32, F32, F32]:
        """Return q (S, N/R, H), k and v (S, K/R, H): this row's heads, the same on all columns."""

    def norm_heads(self, q_SNH: F32, k_SKH: F32, q_gain_H: F32, k_gain_H: F32) -> tuple[F32, F32]:
        """Return q and k with every head normalised."""
        round_, eps = self.precision.activation.round, self.shape.norm_eps
        q = round_(rms_norm_heads(q_SNH, q_gain_H, eps=eps))
        return q, round_(rms_norm_heads(k_SKH, k_gain_H, eps=eps))

    @abstractmethod
    def rotate(self, q_SNH: F32, k_SKH: F32, cos_sin: tuple[F32, F32]) -> tuple[F32, F32]:
        """Return q and k with their positions rotated in."""

    @abstractmethod
    def fill_cache(
        self, cache: KVCache, k_SKH: F32, v_SKH: F32, work: PrefillPass
    ) -> tuple[F32, F32]:
        """Write k and v of the users of this column; return both as the cache holds them."""

    @abstractmethod
    def attention(
        self, q_SNH: F32, k_SKH: F32, v_SKH: F32, cache: KVCache, work: PrefillPass
    ) -> F32:
        """Attend causally; return this row's heads side by side, (S, N/R * H), on all columns."""

    @abstractmethod
    def attention_output(self, attention_SX: F32, wo: WeightId, work: PrefillPass) -> F32:
        """Return the attention block's output, (S, D/C), the same on all rows."""

    @abstractmethod
    def gate_up(self, h_shard_SD: F32, w1: WeightId, w3: WeightId, work: PrefillPass) -> F32:
        """Return silu(gate) * up, cut over the columns: (S, F/(R*C))."""

    @abstractmethod
    def down(self, act_shard_SF: F32, w2: WeightId, work: PrefillPass) -> F32:
        """Return the feed-forward block's output, (S, D/C), the same on all rows."""

    @abstractmethod
    def logits(self, h_shard_SD: F32, work: PrefillPass, head: list[WeightId]) -> F32:
        """Return this row's slice of each user's logits, (U, V/R), the same on all columns.

        Parameters
        ----------
        h_shard_SD : ndarray of shape (32 U, D/C)
            Of `last_tiles`, normalised.
        work : PrefillPass
        head : list of WeightId
        """

    def all_logits(self, h_shard_SD: F32, work: PrefillPass, head: list[WeightId]) -> F32:
        """Return this row's slice of the logits of every row, (S, V/R), as `logits` makes them."""
        pieces = []
        for piece in head:
            w = self.weights.read(piece)
            by_w = partial(self.unit, w=w, name="lm_head")
            pieces.append(matmul(h_shard_SD, w.shape[1], work.row_blocks, by_w))
        return self.ccl.all_reduce(
            np.concatenate(pieces, axis=1),
            axis=Axis.COLS,
            dtype=self.precision.logits,
            key=BufferKey.LM_HEAD,
        )

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
