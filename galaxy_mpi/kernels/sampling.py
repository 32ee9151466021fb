"""Choosing the next token: local top-k on each chip, then the choice among all candidates.

Every chip runs `choose` on the same gathered candidates and gets the same token, so no token is
ever sent. Ties go to the lowest token id, in the top-k as in the choice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from galaxy_mpi.arrays import F32, Ints
from galaxy_mpi.errors import ConfigError

__all__ = ["MAX_TOP_K", "SamplingParams", "choose", "top_k"]

MAX_TOP_K = 32
"""Candidates that each row of the mesh contributes (tt-metal, models/common/sampling)."""


@dataclass(frozen=True)
class SamplingParams:
    """How a user's tokens are chosen; temperature 0 is greedy."""

    temperature: float = 0.0
    top_k: int = MAX_TOP_K
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise ConfigError(f"--temperature must be 0 or more, got {self.temperature}")
        if not 1 <= self.top_k <= MAX_TOP_K:
            raise ConfigError(f"--top-k must be 1 to {MAX_TOP_K}, got {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"--top-p must be above 0 and at most 1, got {self.top_p}")
        if not 0 <= self.seed < 2**63:
            raise ConfigError(f"--seed must be 0 to 2**63 - 1, got {self.seed}")

    def stream(self, user: int) -> np.random.Generator:
        """Return the user's own random stream; one number is drawn per sampled token."""
        return np.random.Generator(np.random.Philox(key=[self.seed, user]))


_CHUNK = 32
"""Logits whose maximum is looked at first, see `top_k`."""


def top_k(logits_BV: F32, values: F32, tokens: Ints) -> None:
    """Find the best of each row, best first, ties by lowest index.

    A row is looked at in chunks of 32: the k best logits lie in the k chunks with the largest
    maxima (of equal ones, the first), so only these are sorted.

    Parameters
    ----------
    logits_BV : ndarray of shape (B, V)
    values, tokens : ndarray of shape (B, k)
        Get the logits and their indices.
    """
    n_rows, width = logits_BV.shape
    k, n_chunks = values.shape[1], width // _CHUNK
    if width % _CHUNK or n_chunks <= 2 * k:
        best = _best(logits_BV, k)
    else:
        chunks = logits_BV.reshape(n_rows, n_chunks, _CHUNK)
        chosen = _best(np.maximum.reduce(chunks, axis=2), k)
        chosen.sort(axis=1)
        found = np.take_along_axis(chunks, chosen[..., None], axis=1).reshape(n_rows, -1)
        place, within = np.divmod(_best(found, k), _CHUNK)
        best = np.take_along_axis(chosen, place, axis=1) * _CHUNK + within
    tokens[...] = best
    values[...] = np.take_along_axis(logits_BV, best, axis=1)


def _best(values_BV: F32, k: int) -> Ints:
    """Return the indices of the ``k`` best of each row, best first, ties by lowest index."""
    # Order-preserving integers: the sign bit flips positives, all bits flip negatives.
    bits = (values_BV + np.float32(0)).view(np.int32).astype(np.int64)
    ordered = np.where(bits < 0, -(bits & 0x7FFFFFFF), bits)
    keys = (-ordered << 32) | np.arange(values_BV.shape[1])  # distinct, so the result is unique
    if k < keys.shape[1]:
        keys = np.partition(keys, k - 1, axis=1)[:, :k]
    keys.sort(axis=1)
    best: Ints = keys & 0xFFFFFFFF
    return best


def choose(
    values: F32, tokens: Ints, params: SamplingParams, streams: list[np.random.Generator]
) -> Ints:
    """Return each user's next token.

    Parameters
    ----------
    values, tokens : ndarray of shape (B, n)
        Candidates of all rows, in any order.
    params : SamplingParams
    streams : list of Generator
        One a user; advanced by one number each, unless greedy.

    Returns
    -------
    ndarray of shape (B,), int64
    """
    order = np.lexsort((tokens, -values), axis=1)
    tokens = np.take_along_axis(tokens, order, axis=1)
    if params.temperature == 0 or params.top_k == 1:
        best: Ints = tokens[:, 0]
        return best
    values = np.take_along_axis(values, order, axis=1)
    below_best = (values - values[:, :1])[:, : params.top_k].astype(np.float64)
    weights = np.exp(below_best / params.temperature)
    shares = weights / weights.sum(axis=1, keepdims=True)
    before = np.cumsum(shares, axis=1) - shares
    weights[before >= params.top_p] = 0  # the first candidate is always kept
    edges = np.cumsum(weights, axis=1)
    drawn = np.array([stream.random() for stream in streams]) * edges[:, -1]
    picked = (edges <= drawn[:, None]).sum(axis=1)
    picked = np.minimum(picked, (weights > 0).sum(axis=1) - 1)
    chosen: Ints = tokens[np.arange(len(tokens)), picked]
    return chosen
