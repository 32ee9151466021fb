"""Checks of what a script gives to `galaxy_mpi.Generator`."""

from collections.abc import Sequence

import numpy as np

from galaxy_mpi.arrays import Ints
from galaxy_mpi.errors import ConfigError

__all__ = ["refuse_difference", "token_ids"]


def token_ids(tokens: Sequence[int] | Ints, vocab_size: int) -> Ints:
    """Return token ids as an array of shape (len(tokens),).

    Raises
    ------
    ConfigError
        If one is no whole number, or not in the vocabulary. Indexing would take -1 for the last.
    """
    for token in tokens:
        if not 0 <= token < vocab_size or int(token) != token:
            raise ConfigError(
                f"token {token} is not in the vocabulary; its tokens are 0 to {vocab_size - 1}"
            )
    return np.array(tokens, np.int64)


def refuse_difference(given: Sequence[dict[str, object]]) -> None:
    """Raise ConfigError if a rank was given something else than one before it."""
    known: dict[str, tuple[int, object]] = {}
    for rank, of_rank in enumerate(given):
        for what, values in of_rank.items():
            first, right = known.setdefault(what, (rank, values))
            if values != right:
                raise ConfigError(
                    f"the {what} of rank {rank} differ from those of rank {first}: "
                    f"{str(values)[:60]}, not {str(right)[:60]}; give all ranks the same"
                )
