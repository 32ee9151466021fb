"""Every error that a user or a caller can meet.

`UserError` and its kinds are the user's to mend: a command prints their one line and no
traceback. The others mean that the run itself broke.
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
    """What was asked for cannot be done; the message says what to do instead."""

    is_common = False
    """Whether all ranks raise it together, so that one of them may speak for all."""


def common(error: _E) -> _E:
    """Return an error that all ranks raise together: they know, or agreed on, the same."""
    error.is_common = True
    return error


class ConfigError(UserError):
    """An argument, or a combination of them, is wrong."""


class MeshError(UserError):
    """The mesh does not fit the number of ranks, or the model does not fit the mesh."""


class CheckpointError(UserError):
    """A model folder cannot be used as it is."""


class ValuesError(UserError):
    """What was computed cannot be right; the message names op, layer and chip where it shows."""


class CollectiveError(RuntimeError):
    """A collective did not end: a neighbour failed or never came."""


class PrefetchError(RuntimeError):
    """The prefetcher failed, or delivered something else than was asked for."""


class BufferClosedError(RuntimeError):
    """The circular buffer was closed while its producer waited for room."""
