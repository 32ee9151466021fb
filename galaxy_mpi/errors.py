"""All errors that users and callers may see.

The user can correct a `UserError` and its subclasses: a command prints one line, no traceback, and
ends with `EXIT_USER_ERROR`. The others mean that the run itself failed: 1, which is also the code
of commands that compare and find a difference.
"""

from collections.abc import Iterable, Sequence
from typing import TypeVar

__all__ = [
    "EXIT_USER_ERROR",
    "INTERRUPTED",
    "BufferClosedError",
    "CheckpointError",
    "CollectiveError",
    "ConfigError",
    "MeshError",
    "PrefetchError",
    "ProgramError",
    "UserError",
    "ValuesError",
    "common",
    "did_you_mean",
    "exit_code",
    "refuse_twice",
]

EXIT_USER_ERROR = 2

INTERRUPTED = 130
"""Exit code after Ctrl-C, as in shells."""

_E = TypeVar("_E", bound="UserError")


class UserError(ValueError):
    """The request cannot be fulfilled; the message says what to do instead."""

    is_common = False
    """Whether all ranks raise it, so that one of them can print it for all."""


def common(error: _E) -> _E:
    """Mark an error as raised by all ranks, and return it."""
    error.is_common = True
    return error


class ConfigError(UserError):
    """An argument, or a combination of them, is wrong."""


class MeshError(UserError):
    """The mesh does not fit the number of ranks, or the model does not fit the mesh."""


class CheckpointError(UserError):
    """A model folder cannot be used."""


class ValuesError(UserError):
    """A computed value is invalid; the message names op, layer and chip."""


class CollectiveError(RuntimeError):
    """A collective did not complete: a member failed or never entered."""


class ProgramError(UserError, CollectiveError):
    """An op is wrong: it exchanges what is not charged, or not the same on all chips."""


class PrefetchError(RuntimeError):
    """The prefetcher failed, or delivered the wrong weight."""


class BufferClosedError(RuntimeError):
    """The circular buffer was closed while its producer waited for space."""


def exit_code(error: BaseException) -> int:
    """Return the exit code of a command that an error ends."""
    return EXIT_USER_ERROR if isinstance(error, UserError) else 1


def refuse_twice(option: str, names: Sequence[str]) -> None:
    """Raise if an option names something twice, because only one of the values could count.

    Raises
    ------
    ConfigError
    """
    for number, name in enumerate(names):
        if name in names[:number]:
            raise ConfigError(f"{option} has {name} twice; give it one value")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the advice for an unknown name: the known one that is most like it, or else all.

    Examples
    --------
    >>> did_you_mean("linkz", ["links", "batch"]), did_you_mean("x", ["links", "batch"])
    ('did you mean links?', 'choose links, batch')
    """
    from difflib import get_close_matches  # no rank of a run that starts needs it

    choices = list(known)
    close = get_close_matches(name, choices, 1)
    return f"did you mean {close[0]}?" if close else f"choose {', '.join(choices)}"
