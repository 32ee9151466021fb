"""Ends a rank whose main thread waits for ever: an MPI wait or a read cannot be given a timeout."""

import math
import threading
import traceback
from collections.abc import Callable
from typing import Any

from galaxy_mpi.mesh.ending import end_process

__all__ = ["WAIT_TIMEOUT_S", "Watchdog"]

WAIT_TIMEOUT_S = 120.0
"""For callers in Python: what their scripts do between two calls on one rank, others wait for."""

_INTERVAL_S = 1.0


class Watchdog:
    """Ends this process when its main thread stays in one wait for too long.

    Parameters
    ----------
    timeout_s : float
        Seconds of host time; 0: for ever.
    is_fixed : bool
        Whether `allow` is not to change it: the user said how long.
    expired : callable, optional
        Called with the message instead of ending the process (tests).

    Attributes
    ----------
    doing : str
        What the chip is about, for the message: ``decode step 12``.
    n_waits : int
        Waits that have begun. Collectives come again step after step with the same ticket: only
        this number tells one long wait from many short ones.
    """

    def __init__(
        self,
        timeout_s: float = WAIT_TIMEOUT_S,
        *,
        is_fixed: bool = False,
        expired: Callable[[str], None] | None = None,
    ) -> None:
        self.doing, self.n_waits = "", 0
        self._waiting: tuple[Any, int] | None = None
        self._timeout_s, self._is_fixed = timeout_s or math.inf, is_fixed
        self._expired = expired or _end
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> tuple[Any, int] | None:
        """What the main thread waits for, with the step of it; None while it does not wait."""
        return self._waiting

    @waiting.setter
    def waiting(self, ticket: tuple[Any, int] | None) -> None:
        if ticket is not None:
            self.n_waits += 1
        self._waiting = ticket

    def allow(self, timeout_s: float) -> None:
        """Let waits take at least ``timeout_s`` seconds, unless the user said how long."""
        if not self._is_fixed:
            self._timeout_s = max(self._timeout_s, timeout_s)

    def close(self) -> None:
        """Stop watching."""
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        try:
            self._look_again_and_again()
        except BaseException:  # without a watchdog the rank could wait for ever
            end_process(f"galaxy_mpi: the watchdog failed:\n{traceback.format_exc()}")

    def _look_again_and_again(self) -> None:
        seen, seen_s = -1, 0.0
        interval_s = min(_INTERVAL_S, self._timeout_s / 4)
        # Seconds are counted, not read from a clock: a computer that slept has not waited.
        while not self._stop.wait(interval_s):
            number, now = self.n_waits, self._waiting
            seen_s = seen_s + interval_s if now is not None and number == seen else 0.0
            seen = number
            if now is not None and seen_s >= self._timeout_s:
                line = now[0].describe(now[1], seen_s)
                self._expired(f"{self.doing}: {line}" if self.doing else line)
                return
            del now  # a table of the past must not live until the next look


def _end(message: str) -> None:
    end_process(f"galaxy_mpi: {message}\n")
