"""RMSNorm in two halves, because the statistics are summed over chips in between."""

import numpy as np

from galaxy_mpi.arrays import F32

__all__ = ["rms_norm_heads", "rms_scale", "sum_of_squares"]


def sum_of_squares(x_shard_BD: F32) -> F32:
    """Return this chip's part of the sum over D, shape (B,)."""
    sums: F32 = np.vecdot(x_shard_BD, x_shard_BD)
    return sums


def rms_scale(sums_B: F32, *, dim: int, eps: float) -> F32:
    """Return ``1 / sqrt(sum / dim + eps)``, shape (B, 1), from the sums over the whole of D."""
    mean = sums_B / np.float32(dim)
    scale: F32 = np.float32(1) / np.sqrt(mean + np.float32(eps))
    return scale[:, None]


def rms_norm_heads(x_BNH: F32, gain_H: F32, eps: float, out: F32) -> None:
    """Normalise every head by itself into an array of the same shape (Qwen3's q and k norms)."""
    mean = np.vecdot(x_BNH, x_BNH) / np.float32(x_BNH.shape[-1])
    scale = np.float32(1) / np.sqrt(mean + np.float32(eps))
    np.multiply(x_BNH, scale[..., None], out=out)
    np.multiply(out, gain_H, out=out)
