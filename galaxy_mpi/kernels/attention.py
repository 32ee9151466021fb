"""Attention over cached positions: one new token per user, or a whole prompt."""

import numpy as np

from galaxy_mpi.arrays import F32, Ints

__all__ = ["QUERY_BLOCK", "attention_decode", "attention_prefill"]

QUERY_BLOCK = 128
"""Queries handled at once in prefill; prompts are padded to multiples of it."""

_KEY_BLOCK = 512
"""Keys handled at once in prefill, a multiple of `QUERY_BLOCK`: scores stay in the L2 cache."""

_FUTURE = np.tril(np.full((QUERY_BLOCK, QUERY_BLOCK), -np.inf, np.float32), -1)
"""Added to scores of shape (keys, queries) where both are the same positions."""


def attention_decode(q_BNH: F32, k_BKTH: F32, v_BKTH: F32, positions_B: Ints) -> F32:
    """Attend to positions 0 to ``positions_B`` of each user, grouped-query.

    Parameters
    ----------
    q_BNH : ndarray of shape (B, N, H), float32
    k_BKTH, v_BKTH : ndarray of shape (B, K, T, H), float32
        K divides N: query head n belongs to kv head n // (N / K). T exceeds every position.
    positions_B : ndarray of shape (B,)
        Last position of each user.

    Returns
    -------
    ndarray of shape (B, N, H), float32
    """
    n_users, n_heads, head_dim = q_BNH.shape
    n_kv, n_cached = k_BKTH.shape[1:3]
    q: F32 = q_BNH.reshape(n_users, n_kv, n_heads // n_kv, head_dim)
    q = q * np.float32(head_dim**-0.5)
    scores: F32 = q @ k_BKTH.swapaxes(2, 3)  # (B, K, N/K, T)
    future = np.arange(n_cached) > positions_B[:, None]
    scores[np.broadcast_to(future[:, None, None], scores.shape)] = -np.inf
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=-1, keepdims=True)
    mixed: F32 = scores @ v_BKTH
    return mixed.reshape(q_BNH.shape)


def attention_prefill(
    q_SNH: F32, k_KTH: F32, v_KTH: F32, *, start: int, n_real: int | None = None
) -> F32:
    """Attend causally: query s is at position ``start + s`` and sees positions up to its own.

    Walks blocks of queries and, for each, blocks of keys from position 0 to the block's end, with
    a running maximum and sum: memory is linear in S and T. A query's bits depend on its position
    and the keys before it, not on which other queries are asked with it.

    Parameters
    ----------
    q_SNH : ndarray of shape (S, N, H), float32
        S is a multiple of `QUERY_BLOCK`.
    k_KTH, v_KTH : ndarray of shape (K, T, H), float32
        T is at least ``start + S``. K divides N, as in `attention_decode`.
    start : int
        Position of the first query, a multiple of `QUERY_BLOCK`.
    n_real : int, optional
        Queries that are wanted; blocks behind them are padding, and come out as zeros.

    Returns
    -------
    ndarray of shape (S, N, H), float32

    References
    ----------
    .. [1] Dao et al., FlashAttention (2022), section 3.1.
    """
    n_queries, n_heads, head_dim = q_SNH.shape
    assert n_queries % QUERY_BLOCK == 0
    assert start % QUERY_BLOCK == 0
    n_kv = len(k_KTH)
    per_kv = n_heads // n_kv
    out = np.zeros((n_queries, n_kv, per_kv, head_dim), np.float32)
    scores = np.empty((_KEY_BLOCK, per_kv * QUERY_BLOCK), np.float32)
    wanted = n_queries if n_real is None else min(max(n_real, 0), n_queries)
    for first in range(0, wanted, QUERY_BLOCK):
        block = q_SNH[first : first + QUERY_BLOCK].reshape(-1, n_kv, per_kv, head_dim)
        q_KHR = block.transpose(1, 3, 2, 0).reshape(n_kv, head_dim, -1)  # R = N/K * QUERY_BLOCK
        q_KHR = q_KHR * np.float32(head_dim**-0.5)
        end = start + first + QUERY_BLOCK
        for head in range(n_kv):
            mixed_HR = _attend(q_KHR[head], k_KTH[head, :end], v_KTH[head, :end], scores)
            mixed = mixed_HR.reshape(head_dim, per_kv, QUERY_BLOCK).transpose(2, 1, 0)
            out[first : first + QUERY_BLOCK, head] = mixed
    return out.reshape(n_queries, n_heads, head_dim)


def _attend(q_HR: F32, k_TH: F32, v_TH: F32, scores: F32) -> F32:
    """Mix the values of one head for R queries, which sit at the last positions of the keys.

    Keys lie along the first dim of ``scores``: numpy takes maxima and sums over whole rows four
    times faster than within them.
    """
    n_keys, (head_dim, n_rows) = len(k_TH), q_HR.shape
    top = np.full(n_rows, -np.inf, np.float32)
    total = np.zeros(n_rows, np.float32)
    mixed = np.zeros((head_dim, n_rows), np.float32)
    for start in range(0, n_keys, _KEY_BLOCK):
        stop = min(start + _KEY_BLOCK, n_keys)
        part = scores[: stop - start]
        np.matmul(k_TH[start:stop], q_HR, out=part)
        if stop == n_keys:
            diagonal = part[-QUERY_BLOCK:].reshape(QUERY_BLOCK, -1, QUERY_BLOCK)
            diagonal += _FUTURE[:, None]
        higher = np.maximum(top, np.maximum.reduce(part, axis=0))
        part -= higher
        np.exp(part, out=part)
        fade = np.exp(top - higher)
        total *= fade
        total += np.add.reduce(part, axis=0)
        mixed *= fade
        mixed += v_TH[start:stop].T @ part
        top = higher
    mixed /= total
    return mixed
