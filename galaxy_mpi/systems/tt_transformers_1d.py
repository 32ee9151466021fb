"""The generic system on a single row or column of N chips: N150, N300, T3K.

Only heads, feed-forward and vocabulary are cut, over all chips (``Axis.ROWS`` of N rows of one
chip, however the mesh was written). An all-reduce ends half-way, as a reduce-scatter: the stream
stays cut, (B, D/N), and is gathered when the next norm reads it.
"""

from galaxy_mpi.arrays import F32
from galaxy_mpi.ccl import CCL, BufferKey
from galaxy_mpi.dtypes import DType
from galaxy_mpi.mesh import Axis
from galaxy_mpi.prefetch import WeightId
from galaxy_mpi.systems.ops import beside_each_other, split_columns
from galaxy_mpi.systems.prefill_pass import PrefillPass
from galaxy_mpi.systems.tt_transformers import TtTransformersDecode, TtTransformersPrefill

__all__ = ["ScatteredDecode", "ScatteredPrefill"]


class ScatteredDecode(TtTransformersDecode):
    """A decode step whose stream stays scattered."""

    def add_norm(
        self, x_shard_BD: F32, residual_shard_BD: F32 | None, gain_shard_D: F32
    ) -> tuple[F32, F32]:
        """Add what is here, all-gather, normalise the whole: (B, D) and (B, D/N)."""
        activation = self.precision.activation
        if residual_shard_BD is not None:
            x_shard_BD = activation.round(x_shard_BD + residual_shard_BD)
        whole_BD = _gathered(self.ccl, x_shard_BD, self.shape.dim, activation)
        total_B = self.norm.statistics(whole_BD)
        return activation.round(self.norm.normalise(whole_BD, total_B, gain_shard_D)), x_shard_BD

    def attention_output(self, attention_BX: F32, wo: WeightId) -> F32:
        """Multiply and reduce-scatter."""
        product = self.matmul(attention_BX, wo)
        return _scattered(self.ccl, product, self.precision.reduced, BufferKey.WO)

    def down(self, act_BF: F32, w2: WeightId) -> F32:
        """Multiply and reduce-scatter."""
        product = self.matmul(act_BF, w2)
        return _scattered(self.ccl, product, self.precision.reduced, BufferKey.FF2)


class ScatteredPrefill(TtTransformersPrefill):
    """A prefill pass whose stream stays scattered."""

    def normalised(self, x_shard_SD: F32, gain_shard_D: F32) -> F32:
        """All-gather, and normalise the whole: (S, D)."""
        activation = self.precision.activation
        whole_SD = _gathered(self.ccl, x_shard_SD, self.shape.dim, self.precision.prefill_residual)
        total_S = self.norm.statistics(whole_SD)
        return activation.round(self.norm.normalise(whole_SD, total_S, gain_shard_D))

    def attention_output(self, attention_SX: F32, wo: WeightId, work: PrefillPass) -> F32:
        """Multiply and reduce-scatter."""
        product = self.product(attention_SX, wo, work)
        return _scattered(self.ccl, product, self.precision.reduced, BufferKey.WO)

    def down(self, act_shard_SF: F32, w2: WeightId, work: PrefillPass) -> F32:
        """Multiply and reduce-scatter."""
        product = self.down_product(act_shard_SF, w2, work)
        return _scattered(self.ccl, product, self.precision.reduced, BufferKey.FF2)


def _gathered(ccl: CCL, x_shard_BD: F32, dim: int, dtype: DType) -> F32:
    """Return the whole stream: (B, D/N) to (B, D)."""
    parts = ccl.all_gather(x_shard_BD, axis=Axis.ROWS, dtype=dtype, key=BufferKey.LAYERNORM)
    return beside_each_other(parts)[:, :dim]


def _scattered(ccl: CCL, product_BD: F32, dtype: DType, key: str) -> F32:
    """Sum over all chips and keep this one's part: (B, D) to (B, D/N)."""
    chunks = split_columns(product_BD, ccl.size(Axis.ROWS))
    return ccl.reduce_scatter(chunks, axis=Axis.ROWS, dtype=dtype, key=key)
