"""All errors that users and callers may see.

The user can correct a `UserError` and its subclasses: a command prints one line and no traceback.
The others mean that the run itself failed.
"""

from typing import TypeVar

__all__ = [
    "BufferClosedError",
    "CheckpointError",
    "CollectiveError",
    "ConfigError",
    "MeshError",
    "PrefetchError",
    "UserError",
    "ValuesError",
    "common",
]

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


class PrefetchError(RuntimeError):
    """The prefetcher failed, or delivered the wrong weight."""


class BufferClosedError(RuntimeError):
    """The circular buffer was closed while its producer waited for space."""
