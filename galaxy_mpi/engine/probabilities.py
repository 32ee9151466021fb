"""The probability of every token that was chosen: its share of the softmax over the vocabulary.

Chips hold slices of the logits, and sampling sends only the best of them. So the chips of column 0
note the largest logit and the sum of exponentials of their slice in every pass and step, and rank 0
joins them at the end. Temperature, top k and top p are not in it: it is what the model says.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from galaxy_mpi.arrays import F32, Array, Ints
from galaxy_mpi.engine.value_checks import logits_of
from galaxy_mpi.program import Binder, Program, Tap, Use
from galaxy_mpi.systems import ChipBinder

__all__ = ["Chance", "Probabilities", "Sums"]

N_BEST = 3
"""Candidates listed for each token."""

Sums = dict[int, tuple[NDArray[np.float64], NDArray[np.float64]]]
"""By row of the mesh: the largest logit of each user, and the sum of exponentials above it."""


@dataclass(frozen=True)
class Chance:
    """A token that was chosen."""

    token: int
    probability: float
    best: list[tuple[int, float]]
    """The best candidates and their probabilities."""


@dataclass(frozen=True)
class _Choice:
    run: int
    """Number of the pass or step."""
    user: int
    """Row of its logits."""
    token: int
    logit: float
    best: list[tuple[int, float]]
    """Tokens and logits."""


class Probabilities:
    """Notes what probabilities are made of; a `galaxy_mpi.engine.mode.Watcher`.

    Parameters
    ----------
    slice_size : int
        Tokens of a row's slice of the vocabulary.

    Attributes
    ----------
    sums : list of Sums
        Of every pass and step, for the rows of this process.
    """

    def __init__(self, slice_size: int) -> None:
        self._slice_size = slice_size
        self.sums: list[Sums] = []
        self._choices: dict[int, list[_Choice]] = {}

    def tap(self, program: Program) -> Tap:
        """Return what looks at the logits."""
        logits = logits_of(program)

        def tap(chip: Binder, use: Use, outputs: tuple[Array, ...]) -> None:
            assert isinstance(chip, ChipBinder), "a model's programs are bound by its chips"
            for tensor, values in zip(use.outputs, outputs, strict=True):
                if tensor is logits and chip.col == 0:
                    chip.call(self._note, chip.row, values[:, : chip.state.n_valid_tokens])

        return tap

    def start(self, mode: str) -> None:
        """Begin a pass or a step."""
        self.sums.append({})

    def end(self, program: Program) -> None:
        """Do nothing."""

    def _note(self, row: int, logits_BV: F32) -> None:
        values = logits_BV.astype(np.float64)
        largest_B = values.max(axis=1, initial=-math.inf)
        finite_B = np.where(np.isfinite(largest_B), largest_B, 0.0)
        self.sums[-1][row] = largest_B, np.exp(values - finite_B[:, None]).sum(axis=1)

    def chose(
        self, values_RBk: F32, tokens_RBk: Ints, rows: Sequence[int], chosen: Mapping[int, int]
    ) -> None:
        """Note the tokens of the pass or step that has just run.

        Parameters
        ----------
        values_RBk, tokens_RBk : ndarray of shape (R, B, k)
            As `Sampler.choose` takes them.
        rows : sequence of int
            Which user belongs to each request, in the order of ``chosen``.
        chosen : mapping of int to int
            By number of the request.
        """
        first_R1 = self._slice_size * np.arange(len(values_RBk))[:, None]
        for user, (number, token) in zip(rows, chosen.items(), strict=True):
            values, tokens = values_RBk[:, user].reshape(-1), (tokens_RBk[:, user] + first_R1)
            tokens = tokens.reshape(-1)
            order = np.lexsort((tokens, -values))
            (place,) = np.flatnonzero(tokens == token)[:1]
            best = [(int(tokens[n]), float(values[n])) for n in order[:N_BEST]]
            choice = _Choice(len(self.sums) - 1, user, token, float(values[place]), best)
            self._choices.setdefault(number, []).append(choice)

    def chances(self, ranks: Sequence[list[Sums]]) -> dict[int, list[Chance]]:
        """Return the probabilities of each request's tokens, in order.

        Parameters
        ----------
        ranks : sequence of list of Sums
            ``sums`` of all processes.
        """
        logs = []
        for parts in zip(*ranks, strict=True):
            rows = [part for of_rank in parts for part in of_rank.values()]
            largest_RB = np.stack([largest for largest, _ in rows])
            top_B = largest_RB.max(axis=0)
            total_B = sum(np.exp(largest - top_B) * total for largest, total in rows)
            logs.append(top_B + np.log(total_B))
        return {
            number: [self._chance(choice, logs[choice.run]) for choice in choices]
            for number, choices in self._choices.items()
        }

    def _chance(self, choice: _Choice, logs_B: NDArray[np.float64]) -> Chance:
        def share(logit: float) -> float:
            return min(1.0, math.exp(logit - float(logs_B[choice.user])))

        best = [(token, share(logit)) for token, logit in choice.best]
        return Chance(choice.token, share(choice.logit), best)
