"""Choosing the next token: local top-k on each chip, then the choice among all candidates.

Every chip runs `choose` on the same gathered candidates and gets the same token, so no token is
ever sent. Ties go to the lowest token id, in the top-k as in the choice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from galaxy_mpi.arrays import F32, Ints
from galaxy_mpi.errors import ConfigError

__all__ = ["MAX_TOP_K", "SamplingParams", "TopK", "choose"]

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


_DEPTH = 16
"""Logits that are compared with each other first, see `TopK`."""


class TopK:
    """Finds the best logits of each row, best first, ties by lowest index.

    The k-th largest of some maxima over distinct logits is a lower bound of the k best logits, and
    a good one: only those that reach it are sorted. Arrays whose size does not depend on the values
    are allocated once.

    Parameters
    ----------
    logits_BV : ndarray of shape (B, V)
        Without NaN.
    values, tokens : ndarray of shape (B, k)
        Get the logits and their indices.
    """

    def __init__(self, logits_BV: F32, values: F32, tokens: Ints) -> None:
        n_rows, width = logits_BV.shape
        self._k = values.shape[1]
        self._logits, self._values, self._tokens = logits_BV, values, tokens
        self._by_depth: F32 | None = None
        n_maxima = width
        if width % _DEPTH == 0 and width // _DEPTH >= self._k:
            n_maxima = width // _DEPTH
            row, column = logits_BV.strides
            self._by_depth = np.lib.stride_tricks.as_strided(  # never a copy
                logits_BV, (n_rows, _DEPTH, n_maxima), (row, n_maxima * column, column)
            )
        self._maxima = np.empty((n_rows, n_maxima), np.float32)
        self._place = n_maxima - self._k
        self._bound = self._maxima[:, self._place, None]
        self._reaches = np.empty(logits_BV.shape, np.bool_)
        self._begins = np.arange(0, n_rows * width, width)
        self._ranks = np.arange(self._k)

    def find_best(self) -> None:
        """Find them among the logits that are there now."""
        logits, k = self._logits, self._k
        if self._by_depth is None:
            np.copyto(self._maxima, logits)
        else:
            np.maximum.reduce(self._by_depth, axis=1, out=self._maxima)
        self._maxima.partition(self._place, axis=1)
        np.greater_equal(logits, self._bound, self._reaches)
        # Row by row, by index; np.nonzero of two dims takes fifteen times as long.
        found = np.flatnonzero(self._reaches)
        reached = logits.reshape(-1)[found]
        firsts = np.searchsorted(found, self._begins)[:, None]
        n_rows, width = logits.shape
        if len(found) == n_rows * k:  # k in each row, since there are no less
            order = firsts + np.argsort(-reached.reshape(n_rows, k), axis=1, kind="stable")
        else:
            order = np.lexsort((-reached, found // width))[firsts + self._ranks]  # stable
        np.subtract(found[order], self._begins[:, None], self._tokens)
        self._values[...] = reached[order]


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
