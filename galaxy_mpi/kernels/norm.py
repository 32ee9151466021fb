"""RMSNorm in two halves, because the statistics are summed over chips in between."""

import numpy as np

from galaxy_mpi.arrays import F32

__all__ = ["rms_scale", "sum_of_squares"]


def sum_of_squares(x_shard_BD: F32) -> F32:
    """Return this chip's part of the sum over D, shape (B,)."""
    sums: F32 = np.einsum("bd,bd->b", x_shard_BD, x_shard_BD)
    return sums


def rms_scale(sums_B: F32, *, dim: int, eps: float) -> F32:
    """Return ``1 / sqrt(sum / dim + eps)``, shape (B, 1), from the sums over the whole of D."""
    mean = sums_B / np.float32(dim)
    scale: F32 = np.float32(1) / np.sqrt(mean + np.float32(eps))
    return scale[:, None]
