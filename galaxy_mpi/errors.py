"""Every error that a user or a caller can meet.

`UserError` and its kinds are the user's to mend: a command prints their one line and no
traceback. The others mean that the run itself broke.
"""

__all__ = [
    "BufferClosedError",
    "CheckpointError",
    "CollectiveError",
    "ConfigError",
    "MeshError",
    "PrefetchError",
    "UserError",
]


class UserError(ValueError):
    """What was asked for cannot be done; the message says what to do instead."""


class ConfigError(UserError):
    """An argument, or a combination of them, is wrong."""


class MeshError(UserError):
    """The mesh does not fit the number of ranks, or the model does not fit the mesh."""


class CheckpointError(UserError):
    """A model folder cannot be used as it is."""


class CollectiveError(RuntimeError):
    """A collective did not end: a neighbour failed or never came."""


class PrefetchError(RuntimeError):
    """The prefetcher failed, or delivered something else than was asked for."""


class BufferClosedError(RuntimeError):
    """The circular buffer was closed while its producer waited for room."""
