"""What the model asks of a system in decode, and the part that all systems share.

Shapes are per chip; see `galaxy_mpi.arrays` for the letters. Every method returns values of the
dtype that `Precision` gives that op. `galaxy_mpi.systems.prefill_system` has the same for prefill.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from galaxy_mpi.arrays import F32
from galaxy_mpi.ccl import CCL, BufferKey
from galaxy_mpi.kernels import Multiply, rms_norm_heads
from galaxy_mpi.mesh import Axis
from galaxy_mpi.prefetch import WeightId, WeightSource
from galaxy_mpi.systems.kv_cache import KVCache, PageTable
from galaxy_mpi.systems.matrix_unit import MatrixUnit
from galaxy_mpi.systems.modules import Modules
from galaxy_mpi.systems.ops import HeadLayout
from galaxy_mpi.systems.precision import Precision

__all__ = ["DecodeSystem", "HeadLayout", "ModelShape"]


@dataclass(frozen=True)
class ModelShape:
    """The sizes of the model that ops need beside their operands."""

    dim: int
    """Model dim D, whole."""
    norm_eps: float
    heads: HeadLayout


class DecodeSystem(ABC):
    """The ops of a layer on one chip, for one new token of every user.

    Parameters
    ----------
    ccl : CCL
    weights : WeightSource
    precision : Precision
    shape : ModelShape
    multiply : Multiply
    modules : Modules, optional
        Classes of attention and norm.
    """

    name: ClassVar[str]

    def __init__(
        self,
        ccl: CCL,
        weights: WeightSource,
        precision: Precision,
        shape: ModelShape,
        multiply: Multiply,
        modules: Modules | None = None,
    ) -> None:
        modules = modules or Modules()
        self.ccl, self.weights, self.shape = ccl, weights, shape
        self.precision = self._precisions = precision
        self.unit = MatrixUnit(multiply, precision, "decode")
        self.norm = modules.norm_class(shape.dim, shape.norm_eps)
        self._attention = modules.attention_class()

    def begin_layer(self, layer: int) -> None:
        """Go on to the formats of a layer, or of what is behind the last (`HEAD`)."""
        if self._precisions.layers:
            self.precision = self._precisions.of(layer)
            self.unit = self.unit.of(self.precision)

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

    def norm_heads(self, q_BNH: F32, k_BKH: F32, q_gain_H: F32, k_gain_H: F32) -> tuple[F32, F32]:
        """Return q and k with every head normalised."""
        round_, eps = self.precision.activation.round, self.shape.norm_eps
        q = round_(rms_norm_heads(q_BNH, q_gain_H, eps=eps))
        return q, round_(rms_norm_heads(k_BKH, k_gain_H, eps=eps))

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
            out[places] = self._attention.decode(q, keys, values, table.positions_B[places])
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
