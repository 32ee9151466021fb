"""Attention of one new token per user over its cached positions."""

import numpy as np

from galaxy_mpi.arrays import F32, Ints

__all__ = ["attention_decode"]


def attention_decode(q_BNH: F32, k_BKTH: F32, v_BKTH: F32, positions_B: Ints) -> F32:
    """Attend to positions 0 to ``positions_B`` of each user, grouped-query.

    Parameters
    ----------
    q_BNH : ndarray of shape (B, N, H), float32
    k_BKTH, v_BKTH : ndarray of shape (B, K, T, H), float32
        K divides N: query head n belongs to kv head n // (N / K). T exceeds every position.
    positions_B : ndarray of shape (B,)
        Last position of each user; -1 marks an idle one, whose result means nothing.

    Returns
    -------
    ndarray of shape (B, N, H), float32
    """
    n_users, n_heads, head_dim = q_BNH.shape
    n_kv, n_cached = k_BKTH.shape[1:3]
    q: F32 = q_BNH.reshape(n_users, n_kv, n_heads // n_kv, head_dim)
    q = q * np.float32(head_dim**-0.5)
    scores: F32 = q @ k_BKTH.swapaxes(2, 3)  # (B, K, N/K, T)
    future = np.arange(n_cached) > np.maximum(positions_B, 0)[:, None]
    scores[np.broadcast_to(future[:, None, None], scores.shape)] = -np.inf
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=-1, keepdims=True)
    mixed: F32 = scores @ v_BKTH
    return mixed.reshape(q_BNH.shape)
