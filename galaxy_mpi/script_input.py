"""Checks of what a script gives to `galaxy_mpi.Generator`."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np

from galaxy_mpi.arrays import Ints
from galaxy_mpi.errors import ConfigError, UserError

__all__ = ["named_for_scripts", "refuse_difference", "token_ids"]

_ARGUMENTS = {
    "--attention-class": "attention_class",
    "--batch": "max_batch_size",
    "--cache-blocks": "max_seq_len",
    "--check": "check=True",
    "--chips-per-rank": "chips_per_rank",
    "--layers": "n_layers",
    "--layout": "layout_class",
    "--machine": "machine",
    "--max-new-tokens": "max_new_tokens",
    "--mesh": "mesh",
    "--model": "model",
    "--norm-class": "norm_class",
    "--optimizations": "optimizations",
    "--precision": "optimizations",
    "--rope-class": "rope_class",
    "--set": "constants",
    "--system": "system",
}
"""Arguments of `create_model` and `galaxy_mpi.Generator` for options of ``galaxy-mpi decode``."""

_OPTION = re.compile(r"(--[a-z]+(?:-[a-z]+)*)(?: (\d+x\d+|\d+)\b)?")


@contextmanager
def named_for_scripts() -> Iterator[None]:
    """Let errors of the user name arguments of Python, where they name options of a command.

    Most of what raises them serves commands and scripts, and knows only the options.
    """
    try:
        yield
    except UserError as error:
        error.args = (_OPTION.sub(_argument, str(error)),)
        raise


def _argument(option: re.Match[str]) -> str:
    """Return the argument of an option, with the value that follows it, as Python has them."""
    name, value = _ARGUMENTS.get(option[1]), option[2]
    if name is None or value is None:
        return option[0] if name is None else name
    return f'{name}="{value}"' if "x" in value else f"{name}={value}"


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


def refuse_difference(given: Sequence[Mapping[str, object]]) -> None:
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
