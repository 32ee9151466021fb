"""Ops that systems share, and the order of heads. Letters as in `galaxy_mpi.systems.fused_ops`."""

from dataclasses import dataclass

import numpy as np

from galaxy_mpi.arrays import F32
from galaxy_mpi.ccl import CCL, BufferKey
from galaxy_mpi.dtypes import TILE, DType
from galaxy_mpi.mesh import Axis
from galaxy_mpi.systems.modules import RMSNorm

__all__ = ["HeadLayout", "beside_each_other", "distributed_norm", "split_columns", "with_bias"]


@dataclass(frozen=True)
class HeadLayout:
    """Heads of one chip, in the order in which wqkv makes them: query, key, value."""

    n_heads: int
    n_kv_heads: int
    head_dim: int

    def split(self, qkv_BX: F32) -> tuple[F32, F32, F32]:
        """Return q (B, N, H), k (B, K, H), v (B, K, H): views."""
        heads = qkv_BX.reshape(len(qkv_BX), -1, self.head_dim)
        cut = self.n_heads + self.n_kv_heads
        return heads[:, : self.n_heads], heads[:, self.n_heads : cut], heads[:, cut:]


def distributed_norm(
    ccl: CCL,
    norm: RMSNorm,
    x_shard_BD: F32,
    gain_shard_D: F32,
    *,
    activation: DType,
    statistics: DType,
) -> F32:
    """Normalise rows that are cut over the columns.

    Parameters
    ----------
    x_shard_BD : ndarray of shape (B, D/C)
    gain_shard_D : ndarray of shape (D/C,)
    activation, statistics : DType
        Of the result, and of the statistics that travel: one tile of 32 users a chip, with them
        in its first column.
    """
    own = norm.statistics(x_shard_BD)
    tile = np.zeros((len(own), TILE), np.float32)
    tile[:, 0] = own
    gathered = ccl.all_gather(tile, axis=Axis.COLS, dtype=statistics, key=BufferKey.LAYERNORM)
    total = gathered[0, :, 0].copy()
    for term in gathered[1:, :, 0]:
        total += term
    return activation.round(norm.normalise(x_shard_BD, total, gain_shard_D))


def with_bias(partial_BX: F32, bias_X: F32 | None) -> F32:
    """Add a bias to this chip's term of a sum, where there is one (it is zero but on one chip)."""
    return partial_BX if bias_X is None else partial_BX + bias_X


def beside_each_other(gathered_CSW: F32) -> F32:
    """Lay the members' columns of a gathered tensor side by side: (C, S, W) to (S, C * W)."""
    return gathered_CSW.swapaxes(0, 1).reshape(gathered_CSW.shape[1], -1)


def split_columns(x_SW: F32, n_parts: int) -> F32:
    """Undo `beside_each_other`, with zeros behind what does not divide: (n_parts, S, W/n_parts)."""
    n_rows, width = x_SW.shape
    missing = -width % n_parts
    if missing:
        x_SW = np.concatenate([x_SW, np.zeros((n_rows, missing), np.float32)], axis=1)
    return x_SW.reshape(n_rows, n_parts, -1).swapaxes(0, 1)
