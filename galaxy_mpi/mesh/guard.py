"""Ends a process that waits too long where no watchdog looks: inside MPI's own start and end.

Python's threads stand still while MPI starts, because it is started by an import. So this is a
thread of the interpreter's own making, which needs no lock: it writes where the process stands, and
ends it. The launcher then ends the others, those that are stopped too.
"""

import contextlib
import faulthandler
import sys
from collections.abc import Iterator

__all__ = ["END_S", "START_S", "limited"]

START_S = 60.0
"""Longest that all ranks may take to start and find each other."""

END_S = 20.0
"""Longest that they may take to end, from when all have said that they are ready to."""


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Limit the time of the body; 0: for ever."""
    if seconds:
        _limit(seconds)
    try:
        yield
    finally:
        if seconds:
            faulthandler.cancel_dump_traceback_later()


def _limit(seconds: float) -> None:
    # A standard error that is closed or has no descriptor: the process is not limited, since the
    # limit has nowhere to write. Under a launcher it is a pipe.
    with contextlib.suppress(AttributeError, ValueError, OSError, RuntimeError):
        faulthandler.dump_traceback_later(seconds, exit=True, file=sys.stderr)
