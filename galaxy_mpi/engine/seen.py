"""What a run with ``--report`` records besides its figures: probabilities, host time.

A run without a page notes nothing of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from galaxy_mpi.checkpoints.tokenizer import Tokenizer
from galaxy_mpi.engine.host_trace import HostSpans
from galaxy_mpi.engine.probabilities import Chance, Probabilities, Sums
from galaxy_mpi.engine.request import Request

__all__ = ["Observer", "Seen", "SeenToken", "piece_of"]

_BEFORE = 8
"""Tokens with which a token's text is found: what it adds to theirs."""


@dataclass(frozen=True)
class SeenToken:
    """A token that was generated, as text."""

    text: str
    probability: float
    best: list[tuple[str, float]]


@dataclass(frozen=True)
class Seen:
    """Of the whole run, on rank 0."""

    tokens: list[list[SeenToken]]
    """By user."""
    spans: HostSpans
    """Of the process that plays chip (0, 0)."""


class Observer:
    """Looks at a run.

    Parameters
    ----------
    slice_size : int
        Tokens of a row's slice of the vocabulary.
    """

    def __init__(self, slice_size: int) -> None:
        self.probabilities = Probabilities(slice_size)

    def seen(
        self,
        sums: Sequence[list[Sums]],
        requests: Sequence[Request],
        tokenizer: Tokenizer,
        spans: HostSpans,
    ) -> Seen:
        """Join what was seen; on rank 0.

        Parameters
        ----------
        sums : sequence
            `Probabilities.sums` of all processes.
        requests : sequence of Request
        tokenizer : Tokenizer
        spans : HostSpans
            Of this process.
        """
        chances = self.probabilities.chances(sums)
        tokens = [_tokens(tokenizer, chances.get(r.number, []), r) for r in requests]
        return Seen(tokens, spans)


def _tokens(tokenizer: Tokenizer, chances: list[Chance], request: Request) -> list[SeenToken]:
    found = []
    for at, (chance, token) in enumerate(zip(chances, request.generated, strict=False)):
        before = request.generated[max(0, at - _BEFORE) : at]
        best = [(piece_of(tokenizer, before, other), share) for other, share in chance.best]
        found.append(SeenToken(piece_of(tokenizer, before, token), chance.probability, best))
    return found


def piece_of(tokenizer: Tokenizer, before: Sequence[int], token: int) -> str:
    """Return what a token adds to the text of those before it."""
    known, whole = tokenizer.decode(list(before)), tokenizer.decode([*before, token])
    return whole[len(known) :] if whole.startswith(known) else tokenizer.decode([token])
