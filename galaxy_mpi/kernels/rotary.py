"""Rotary position embedding, in the half-split order of Hugging Face checkpoints.

The two values of a pair lie H/2 apart. (The vendor's kernels interleave them and permute the
weights to match; the products are the same numbers.)
"""

from collections.abc import Callable

import numpy as np

from galaxy_mpi.arrays import F32, Ints

__all__ = ["RotaryTable", "rotate"]


class RotaryTable:
    """cos and sin of every position, made when first needed.

    Parameters
    ----------
    inv_freq : ndarray of shape (H / 2,), float32
        Radians per position of each pair.
    round : callable
        Rounds the table to the dtype in which the chip holds it.
    """

    def __init__(self, inv_freq: F32, round: Callable[[F32], F32]) -> None:
        self._inv_freq, self._round = inv_freq, round
        self._cos = self._sin = np.empty((0, len(inv_freq)), np.float32)

    def at(self, positions_B: Ints) -> tuple[F32, F32]:
        """Return (cos, sin), each of shape (B, 1, H/2); idle users (-1) get position 0."""
        positions = np.maximum(positions_B, 0)
        n_needed = max(positions.tolist(), default=0) + 1
        if n_needed > len(self._cos):
            self._grow(max(n_needed, 2 * len(self._cos), 256))
        return self._cos.take(positions, 0)[:, None], self._sin.take(positions, 0)[:, None]

    def _grow(self, n_positions: int) -> None:
        angles = np.arange(n_positions, dtype=np.float32)[:, None] * self._inv_freq
        self._cos = self._round(np.cos(angles))
        self._sin = self._round(np.sin(angles))


def rotate(x_BNH: F32, cos_B1H: F32, sin_B1H: F32) -> F32:
    """Rotate the pairs of every head: shape (B, N, H) to a new array of the same shape."""
    half = x_BNH.shape[-1] // 2
    first, second = x_BNH[..., :half], x_BNH[..., half:]
    out = np.empty_like(x_BNH)
    np.multiply(first, cos_B1H, out=out[..., :half])
    out[..., :half] -= second * sin_B1H
    np.multiply(second, cos_B1H, out=out[..., half:])
    out[..., half:] += first * sin_B1H
    return out
