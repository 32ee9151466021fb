"""Time limits for the start and end of MPI, where the watchdog cannot run.

An import starts MPI and blocks Python's threads meanwhile. This uses a thread of the interpreter
(faulthandler) that needs no lock: it prints a traceback and ends the process. The launcher then
ends the other ranks, including stopped ones.
"""

import contextlib
import faulthandler
import sys
from collections.abc import Iterator

__all__ = ["END_S", "START_S", "limited"]

START_S = 60.0
"""Time limit for all ranks to start and connect."""

END_S = 20.0
"""Time limit for all ranks to end, once all are ready to."""


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Limit the time of the body; 0: no limit."""
    if seconds:
        _limit(seconds)
    try:
        yield
    finally:
        if seconds:
            faulthandler.cancel_dump_traceback_later()


def _limit(seconds: float) -> None:
    # If standard error is closed or has no descriptor, there is no limit, because the traceback
    # could not be written. Under a launcher it is a pipe.
    with contextlib.suppress(AttributeError, ValueError, OSError, RuntimeError):
        faulthandler.dump_traceback_later(seconds, exit=True, file=sys.stderr)
