"""Ends a rank whose main thread waits for ever: an MPI wait or a read cannot be given a timeout."""

import os
import sys
import threading
from collections.abc import Callable
from typing import Any

__all__ = ["WAIT_TIMEOUT_S", "Watchdog"]

WAIT_TIMEOUT_S = 120.0
"""Longer than any honest wait: the slowest step of a full-size model takes a few seconds."""


class Watchdog:
    """Ends this process when its main thread stays in one wait for too long.

    Parameters
    ----------
    timeout_s : float
        Seconds of host time.
    expired : callable, optional
        Called with the message instead of ending the process (tests).
    """

    def __init__(
        self, timeout_s: float = WAIT_TIMEOUT_S, expired: Callable[[str], None] | None = None
    ) -> None:
        self.waiting: tuple[Any, int] | None = None
        self._timeout_s = timeout_s
        self._expired = expired or _end_process
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop watching."""
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        seen, seen_s = None, 0.0
        interval_s = min(1.0, self._timeout_s / 4)
        while not self._stop.wait(interval_s):
            now = self.waiting
            seen_s = seen_s + interval_s if now is not None and now is seen else 0.0
            seen = now
            if now is not None and seen_s >= self._timeout_s:
                self._expired(now[0].describe(now[1], seen_s))
                return


def _end_process(message: str) -> None:
    print(f"galaxy_mpi: {message}", file=sys.stderr, flush=True)
    os._exit(1)
