"""How well logits agree with reference logits, where both are cut over the rows of the mesh.

Every chip of the first column has its slice of the vocabulary, of both. It sums over its slice
(`SliceSums`), and rank 0 joins the sums (`Quality`): no rank ever holds all logits. The figures are
those of `galaxy_mpi.engine.agreement`, which compares whole arrays.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from galaxy_mpi.arrays import F32, Ints
from galaxy_mpi.mesh.transport import Transport

__all__ = ["Quality", "Reference"]

F64 = NDArray[np.float64]

_ROWS = 64
"""Positions that are summed at once, in float64."""

_BEST = 5


@dataclass(frozen=True)
class Quality:
    """Figures of one precision against the reference."""

    positions: int
    """At which it was asked."""
    top1: float
    """Share of positions at which both have the same best token."""
    top5: float
    """Share of positions at which the best token is among the reference's five best."""
    pcc: float
    """Pearson's correlation of all logits."""
    perplexity: float
    """Of the text."""
    kl: float
    """Mean Kullback-Leibler divergence of the reference's next tokens from this one's, in nats: 0
    if they are the same. Unlike the shares, it shows small differences."""

    def to_dict(self) -> dict[str, float]:
        """Return the figures of the report."""
        return dict(self.__dict__)


@dataclass(frozen=True)
class _Slice:
    """What a chip keeps of the reference."""

    first: int
    """Number of its first token."""
    logits_TV: F32
    shares_TV: F32
    """Probabilities of its tokens."""
    places_T: Ints
    """Of the text's next token in the slice, -1 if it is in another."""
    plogp_T: F64
    """Sum over the slice of p log p."""


class Reference:
    """Reference logits, each slice where it was made, and what rank 0 needs to know of all.

    Parameters
    ----------
    transport : Transport
    logits : mapping of int to ndarray of shape (T, V/R)
        Slices of this process's chips, by rank, in the order of the vocabulary.
    tokens : sequence of int
        The text, T tokens.
    """

    def __init__(
        self, transport: Transport, logits: Mapping[int, F32], tokens: Sequence[int]
    ) -> None:
        self._transport = transport
        widths = {rank: values.shape[1] for rank, values in logits.items()}
        tops = {rank: _tops(values) for rank, values in logits.items()}
        parts = transport.gather((widths, tops))
        firsts, scale_T = transport.from_root(lambda: self._join(parts))
        following = np.array(tokens[1:])
        self._slices = {}
        for rank, values in logits.items():
            inside = following - firsts[rank]
            inside[(inside < 0) | (inside >= values.shape[1])] = -1
            shares = np.exp(values - scale_T[:, None]).astype(np.float32)
            plogp = np.einsum("tv,tv->t", values, shares, dtype=np.float64)
            plogp -= scale_T * shares.sum(axis=1, dtype=np.float64)
            self._slices[rank] = _Slice(firsts[rank], values, shares, inside, plogp)
        self.quality = self.compare(logits)
        """Of the reference itself; on rank 0, None elsewhere."""

    def compare(self, logits: Mapping[int, F32]) -> Quality | None:
        """Return the figures of other logits, cut alike, on rank 0; None elsewhere. Collective."""
        sums = {rank: _sums(logits[rank], self._slices[rank]) for rank in self._slices}
        parts = self._transport.gather(sums)
        if parts is None:
            return None
        by_rank = {rank: one for part in parts for rank, one in part.items()}
        return _quality([by_rank[rank] for rank in sorted(by_rank)], self._best_T5)

    def _join(
        self, parts: list[tuple[dict[int, int], dict[int, tuple[F32, Ints, F64]]]] | None
    ) -> tuple[dict[int, int], F64]:
        """Return where each slice begins, and the logarithm of each position's sum."""
        assert parts is not None
        widths = {rank: width for part in parts for rank, width in part[0].items()}
        tops = {rank: top for part in parts for rank, top in part[1].items()}
        ranks = sorted(widths)
        starts = np.cumsum([0, *(widths[rank] for rank in ranks)]).tolist()
        firsts = dict(zip(ranks, starts, strict=False))
        values = np.concatenate([tops[rank][0] for rank in ranks], axis=1)
        numbers = np.concatenate([tops[rank][1] + firsts[rank] for rank in ranks], axis=1)
        order = np.argsort(-values, axis=1, kind="stable")[:, :_BEST]
        self._best_T5 = np.take_along_axis(numbers, order, axis=1)
        return firsts, _log_sum([tops[rank][2] for rank in ranks])


def _tops(logits_TV: F32) -> tuple[F32, Ints, F64]:
    """Return values and places of a slice's best tokens, and the logarithm of its sum."""
    n = min(_BEST, logits_TV.shape[1])
    places = np.zeros((len(logits_TV), 0), np.int64)
    if n:  # a row of padding alone has none
        best = np.argpartition(-logits_TV, n - 1, axis=1)[:, :n]
        places = np.sort(best, axis=1)  # so that of equal ones the first comes first
    return np.take_along_axis(logits_TV, places, axis=1), places, _log_sums(logits_TV)


def _log_sums(logits_TV: F32) -> F64:
    """Return log(sum(exp)) over a slice, (T,)."""
    if not logits_TV.shape[1]:
        return np.full(len(logits_TV), -np.inf)
    top = logits_TV.max(axis=1, keepdims=True)
    sums = np.exp(logits_TV - top).sum(axis=1, dtype=np.float64)
    found: F64 = np.log(sums) + top[:, 0]
    return found


def _log_sum(of_slices: list[F64]) -> F64:
    """Return the same over all slices."""
    found: F64 = np.logaddexp.reduce(np.stack(of_slices), axis=0)
    return found


@dataclass(frozen=True)
class SliceSums:
    """What one slice adds to the figures; arrays of shape (T,)."""

    n_values: int
    best_T: F32
    """Its largest logit."""
    number_T: Ints
    """The token that has it."""
    log_sum_T: F64
    said_T: F64
    """Logit of the text's next token, 0 if that is in another slice; (T - 1,)."""
    expected_T: F64
    """Sum of logits times the reference's probabilities."""
    plogp_T: F64
    """Of the reference, see `_Slice`."""
    moments: F64
    """Sums of a, b, a a, b b and a b, b being the reference."""


def _sums(logits_TV: F32, of: _Slice) -> SliceSums:
    n_rows, width = logits_TV.shape
    expected, moments = np.zeros(n_rows), np.zeros(5)
    for start in range(0, n_rows, _ROWS):
        rows = slice(start, start + _ROWS)
        a, b, p = (v[rows].astype(np.float64) for v in (logits_TV, of.logits_TV, of.shares_TV))
        expected[rows] = np.einsum("tv,tv->t", a, p)
        # No BLAS, which may add in another order when it has more threads.
        products = [np.einsum("tv,tv->", *pair) for pair in ((a, a), (b, b), (a, b))]
        moments += np.array([a.sum(), b.sum(), *products])
    numbers = logits_TV.argmax(axis=1) if width else np.zeros(n_rows, np.int64)
    every = np.arange(n_rows)
    said = np.zeros(n_rows - 1)
    here = np.flatnonzero(of.places_T >= 0)
    said[here] = logits_TV[here, of.places_T[here]]
    return SliceSums(
        n_values=n_rows * width,
        best_T=logits_TV[every, numbers] if width else np.full(n_rows, -np.inf, np.float32),
        number_T=numbers + of.first,
        log_sum_T=_log_sums(logits_TV),
        said_T=said,
        expected_T=expected,
        plogp_T=of.plogp_T,
        moments=moments,
    )


def _quality(slices: list[SliceSums], best_T5: Ints) -> Quality:
    """Join the sums of all slices, which are in the order of the vocabulary."""
    bests = np.stack([one.best_T for one in slices])
    winner = bests.argmax(axis=0)  # of equal ones the first, as of a whole array
    ours = np.stack([one.number_T for one in slices])[winner, np.arange(bests.shape[1])]
    log_sum = _log_sum([one.log_sum_T for one in slices])
    surprise = log_sum[:-1] - np.sum([one.said_T for one in slices], axis=0)
    expected = np.sum([one.expected_T for one in slices], axis=0)
    plogp = np.sum([one.plogp_T for one in slices], axis=0)
    n = sum(one.n_values for one in slices)
    a, b, aa, bb, ab = np.sum([one.moments for one in slices], axis=0).tolist()
    spread = (aa - a * a / n) * (bb - b * b / n)
    return Quality(
        positions=len(ours),
        top1=float(np.mean(ours == best_T5[:, 0])),
        top5=float(np.mean((best_T5 == ours[:, None]).any(axis=1))),
        pcc=float((ab - a * b / n) / math.sqrt(spread)),
        perplexity=math.exp(float(surprise.mean())),
        kl=max(0.0, float(np.mean(plogp - expected + log_sum))),
    )
