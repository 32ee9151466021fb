"""End a rank whose main thread waits forever, because MPI waits and reads have no timeout."""

import _thread
import math
import threading
import traceback
from collections.abc import Callable

from galaxy_mpi.mesh.ending import end_process
from galaxy_mpi.mesh.lifeline import end_launcher_later
from galaxy_mpi.mesh.waits import Waits

__all__ = ["WAIT_TIMEOUT_S", "Watchdog"]

WAIT_TIMEOUT_S = 120.0
"""Default for Python scripts, whose other ranks wait while one works between two calls."""

_INTERVAL_S = 1.0

BEGINS_IN_S = 10.0

_STANDSTILL_S = 5.0
"""If every process of the run waits this long without progress, it is a deadlock."""

_PATIENT_S = 20.0
"""A wait without limit checks after this time whether other processes are stopped."""

_PAUSE_S, _MOST_PAUSE_S = 0.5, 3.0
"""How long a process lets those before it report first, and at most."""


class Watchdog:
    """End this process when its main thread stays in one wait for too long.

    Parameters
    ----------
    timeout_s : float
        Seconds of host time; 0: no limit.
    is_fixed : bool
        Whether `allow` must not raise it, because the user set it.
    waits : Waits, optional
        The waits of this process and of others on its host.
    expired : callable, optional
        Called with the message instead of ending the process (tests).

    Attributes
    ----------
    doing : str
        What the chip is doing, for the message: ``decode step 12``.
    """

    def __init__(
        self,
        timeout_s: float = WAIT_TIMEOUT_S,
        *,
        is_fixed: bool = False,
        waits: Waits | None = None,
        expired: Callable[[str], None] | None = None,
    ) -> None:
        self.doing = ""
        self._waits = waits or Waits(0)
        self._timeout_s, self._is_fixed = timeout_s or math.inf, is_fixed
        self._expired = expired or _end
        self._stop = threading.Event()
        self._has_begun, self._has_ended = threading.Event(), threading.Event()
        # Without memory for it a thread may end before it begins, which Thread.start waits for.
        try:
            _thread.start_new_thread(self._watch, ())
        except RuntimeError as error:
            raise MemoryError("the watchdog's thread cannot start") from error
        if not self._has_begun.wait(BEGINS_IN_S):
            raise MemoryError("the watchdog's thread has not begun")

    def allow(self, timeout_s: float) -> None:
        """Raise the limit to at least ``timeout_s`` seconds, unless the user set it."""
        if not self._is_fixed:
            self._timeout_s = max(self._timeout_s, timeout_s)

    def close(self) -> None:
        """Stop watching."""
        self._stop.set()
        self._has_ended.wait()

    def _watch(self) -> None:
        self._has_begun.set()
        try:
            self._look_again_and_again()
        except BaseException:  # without a watchdog the rank could wait forever
            end_process(f"galaxy_mpi: the watchdog failed:\n{traceback.format_exc()}")
        finally:
            self._has_ended.set()

    def _look_again_and_again(self) -> None:
        interval_s = min(_INTERVAL_S, self._timeout_s / 4)
        seen, seen_s, all_seen, all_seen_s = -1, 0.0, self._waits.counts(), 0.0
        # Seconds are counted, not read from a clock, so that a suspended computer does not time
        # out.
        while not self._stop.wait(interval_s):
            now = self._waits.number
            seen_s, seen = seen_s + interval_s if now == seen else 0.0, now
            counts = self._waits.counts()
            all_seen_s, all_seen = (
                all_seen_s + interval_s if counts == all_seen else 0.0,
                counts,
            )
            line, pause_s = self._verdict(seen_s, all_seen_s)
            is_wanted = line and not self._stop.wait(pause_s) and now == self._waits.number
            if is_wanted and not self._waits.is_ending:
                self._expired(f"{self.doing}: {line}" if self.doing else line)
                return

    def _verdict(self, seen_s: float, all_seen_s: float) -> tuple[str, float]:
        """Return why this process must end, and in how many seconds; empty if it need not.

        One process ends all. The one closest to the cause reports at once; if it is stuck itself,
        another one does.

        Parameters
        ----------
        seen_s : float
            How long it has been waiting, or working, without a change.
        all_seen_s : float
            How long no process of the host has begun or ended a wait.
        """
        waits = self._waits
        if waits.is_ending:
            return "", 0.0
        pause_s = min(_PAUSE_S * waits.place, _MOST_PAUSE_S)
        crossing = waits.crossing if waits.number % 2 else None
        if crossing is not None and seen_s >= self._timeout_s:
            line, is_behind = waits.in_vain(crossing, seen_s)
            return line, pause_s + _MOST_PAUSE_S * is_behind
        if waits.number % 2 and math.isfinite(self._timeout_s):
            patience_s = min(_STANDSTILL_S, self._timeout_s / 2)
            is_still = crossing is not None and all_seen_s >= patience_s
            if is_still and (line := waits.standstill(all_seen_s)):
                return line, pause_s
            # Those of other hosts may work, which cannot be seen from here.
            is_stuck = all_seen_s >= (patience_s if waits.is_whole else self._timeout_s)
            if is_stuck and (line := waits.behind_ended(seen_s)):
                return line, pause_s
        is_patient = crossing is None and waits.number % 2 == 1
        if is_patient and seen_s >= _PATIENT_S and math.isfinite(self._timeout_s):
            # Others may compute or read for any time, unless they are stopped.
            stopped = waits.stopped()
            return (waits.behind_stopped(stopped, seen_s) if stopped else ""), pause_s
        return "", 0.0


def _end(message: str) -> None:
    end_launcher_later()
    end_process(f"galaxy_mpi: {message}\n")
