"""Attention over cached positions: one new token per user, or a whole prompt."""

import numpy as np

from galaxy_mpi.arrays import F32, Call, Ints

__all__ = [
    "ROW_BLOCK",
    "attention_calls",
    "attention_decode",
    "attention_prefill",
    "future_mask",
]


ROW_BLOCK = 128
"""Rows per block in prefill: the granularity of padding, prefix caching and attention."""

_KEY_BLOCK = 512
"""Keys per block in prefill, a multiple of `ROW_BLOCK`, so that scores fit in the L2 cache."""

_FUTURE = np.tril(np.full((ROW_BLOCK, ROW_BLOCK), -np.inf, np.float32), -1)
"""Causal mask, added to scores of shape (keys, queries) of the same positions."""


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
    out = np.empty(q_BNH.shape, np.float32)
    scaled = np.empty((n_users, n_kv, n_heads // n_kv, head_dim), np.float32)
    scores = np.empty((n_users, n_kv, n_heads // n_kv, n_cached), np.float32)
    future = future_mask(positions_B, n_cached)
    bounds = np.empty((*scores.shape[:-1], 1), np.float32)
    for call, arguments in attention_calls(
        q_BNH, k_BKTH, v_BKTH, future, scaled, scores, bounds, out
    ):
        call(*arguments)
    return out


def future_mask(positions_B: Ints, n_cached: int) -> F32:
    """Return what is added to scores, (B, 1, 1, T): -inf behind each user's position, else 0."""
    mask = np.zeros((len(positions_B), 1, 1, n_cached), np.float32)
    mask[(np.arange(n_cached) > positions_B[:, None])[:, None, None]] = -np.inf
    return mask


def attention_calls(
    q_BNH: F32,
    k_BKTH: F32,
    v_BKTH: F32,
    future: F32,
    scaled: F32,
    scores: F32,
    bounds: F32,
    out_BNH: F32,
) -> list[Call]:
    """Return the calls that compute `attention_decode` in given arrays.

    Parameters
    ----------
    q_BNH, k_BKTH, v_BKTH
        As in `attention_decode`.
    future : ndarray of shape (B, 1, 1, T), float32
        See `future_mask`.
    scaled : ndarray of shape (B, K, N/K, H), float32
    scores : ndarray of shape (B, K, N/K, T), float32
        Overwritten.
    bounds : ndarray of shape (B, K, N/K, 1), float32
        Overwritten.
    out_BNH : ndarray of shape (B, N, H), float32
        Gets the result.
    """
    scale = np.float32(k_BKTH.shape[3] ** -0.5)
    over_positions = (-1, None, bounds, True)
    return [
        (np.multiply, (q_BNH.reshape(scaled.shape, copy=False), scale, scaled)),
        (np.matmul, (scaled, k_BKTH.swapaxes(2, 3), scores)),
        (np.add, (scores, future, scores)),  # a third of the time of `copyto` with a mask
        (np.maximum.reduce, (scores, *over_positions)),
        (np.subtract, (scores, bounds, scores)),
        (np.exp, (scores, scores)),
        (np.add.reduce, (scores, *over_positions)),
        (np.divide, (scores, bounds, scores)),
        (np.matmul, (scores, v_BKTH, out_BNH.reshape(scaled.shape, copy=False))),
    ]


def attention_prefill(q_SNH: F32, k_KTH: F32, v_KTH: F32, *, start: int) -> F32:
    """Attend causally: query s is at position ``start + s`` and sees positions up to its own.

    Walks blocks of queries and, for each, blocks of keys from position 0 to the block's end, with
    a running maximum and sum: memory is linear in S and T.

    Parameters
    ----------
    q_SNH : ndarray of shape (S, N, H), float32
    k_KTH, v_KTH : ndarray of shape (K, T, H), float32
        T is at least ``start + S``. K divides N, as in `attention_decode`.
    start : int
        Position of the first query, a multiple of `ROW_BLOCK`: so a query is always in the same
        block of its prompt.

    Returns
    -------
    ndarray of shape (S, N, H), float32

    References
    ----------
    .. [1] Dao et al., FlashAttention (2022), section 3.1.
    """
    n_queries, n_heads, head_dim = q_SNH.shape
    assert start % ROW_BLOCK == 0
    n_kv = len(k_KTH)
    per_kv = n_heads // n_kv
    out = np.empty((n_queries, n_kv, per_kv, head_dim), np.float32)
    scores = np.empty((_KEY_BLOCK, per_kv * ROW_BLOCK), np.float32)
    for first in range(0, n_queries, ROW_BLOCK):
        rows = slice(first, min(first + ROW_BLOCK, n_queries))
        block = q_SNH[rows].reshape(-1, n_kv, per_kv, head_dim)
        q_KHR = block.transpose(1, 3, 2, 0).reshape(n_kv, head_dim, -1)  # R = N/K queries each
        q_KHR = q_KHR * np.float32(head_dim**-0.5)
        end = start + rows.stop
        for head in range(n_kv):
            mixed_HR = _attend(
                q_KHR[head], k_KTH[head, :end], v_KTH[head, :end], len(block), scores
            )
            out[rows, head] = mixed_HR.reshape(head_dim, per_kv, -1).transpose(2, 1, 0)
    return out.reshape(n_queries, n_heads, head_dim)


def _attend(q_HR: F32, k_TH: F32, v_TH: F32, n_queries: int, scores: F32) -> F32:
    """Mix the values of one kv head for R queries, which sit at the last ``n_queries`` positions.

    Keys lie along the first dim of ``scores``: numpy takes maxima and sums over whole rows faster
    than within them.
    """
    n_keys, (head_dim, n_rows) = len(k_TH), q_HR.shape
    top = np.full(n_rows, -np.inf, np.float32)
    total = np.zeros(n_rows, np.float32)
    mixed = np.zeros((head_dim, n_rows), np.float32)
    scores = scores.reshape(-1)[: _KEY_BLOCK * n_rows].reshape(_KEY_BLOCK, n_rows)
    for start in range(0, n_keys, _KEY_BLOCK):
        stop = min(start + _KEY_BLOCK, n_keys)
        part = scores[: stop - start]
        np.matmul(k_TH[start:stop], q_HR, out=part)
        if stop == n_keys:
            diagonal = part[-n_queries:].reshape(n_queries, -1, n_queries)
            diagonal += _FUTURE[:n_queries, None, :n_queries]
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
