"""An uncaught error in a caller's script ends all ranks, not only its own.

A rank that left its script with an exception would enter MPI's finalize, and the others would wait
for it in a collective. While a transport is open, an uncaught exception in any thread ends the run
after its traceback, and so does leaving by ``sys.exit`` with an error.
"""

import atexit
import contextlib
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import NoReturn

from galaxy_mpi.errors import UserError
from galaxy_mpi.mesh.ending import end_process, say
from galaxy_mpi.mesh.exhaustion import lacks_memory

__all__ = ["UncaughtErrors"]

_RANK_0_FIRST_S = 2.0
"""Rank 0 tells an error of all ranks and ends them; unless it has caught the error."""


_ExitCode = str | int | None


class UncaughtErrors:
    """Handlers that Python calls for uncaught errors while this is open.

    Parameters
    ----------
    rank : int
        Of this process.
    abort : callable
        Ends all ranks with an exit code, called on the main thread.
    """

    def __init__(self, rank: int, abort: Callable[[int], None]) -> None:
        self._rank, self._abort = rank, abort
        self._is_open, self._exit_code = True, 0
        self._report, self._report_thread = sys.excepthook, threading.excepthook
        self._exit: Callable[[_ExitCode], NoReturn] = sys.exit
        # Kept because each access makes a new bound method, and `close` compares.
        self._mine = (self._in_main, self._in_thread, self._leave)
        sys.excepthook, threading.excepthook = self._mine[:2]
        sys.exit = self._mine[2]
        atexit.register(self._at_exit)

    def ignore_exit(self) -> None:
        """From now on, let the process end with any code."""
        atexit.unregister(self._at_exit)

    def close(self) -> None:
        """Restore the previous handlers, unless other code has replaced ours."""
        self._is_open = False
        if sys.excepthook is self._mine[0]:
            sys.excepthook = self._report
        if threading.excepthook is self._mine[1]:
            threading.excepthook = self._report_thread
        if sys.exit is self._mine[2]:
            sys.exit = self._exit  # type: ignore[assignment]
        self.ignore_exit()

    def _in_main(
        self, kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        if self._is_open and self._rank and isinstance(error, UserError) and error.is_common:
            time.sleep(_RANK_0_FIRST_S)
        try:
            if self._is_open:
                say(f"galaxy_mpi: rank {self._rank} failed:\n")
            self._report(kind, error, trace)
        finally:
            if self._is_open:
                say(self._about_memory(error))
                self._abort(1)

    def _in_thread(self, arguments: threading.ExceptHookArgs) -> None:
        try:
            self._report_thread(arguments)
        finally:
            # Only the main thread may call MPI; the launcher ends the others.
            if self._is_open and not issubclass(arguments.exc_type, SystemExit):
                about = self._about_memory(arguments.exc_value)
                end_process(f"galaxy_mpi: rank {self._rank}: a thread failed; see above\n{about}")

    def _about_memory(self, error: BaseException | None) -> str:
        """Return a line if there is no memory, because the error may be about anything."""
        with contextlib.suppress(Exception):
            if error is not None and lacks_memory(error):
                return f"galaxy_mpi: rank {self._rank}: out of memory; see `ulimit -v` and `free`\n"
        return ""

    def _leave(self, status: _ExitCode = None, /) -> NoReturn:
        """Note the exit code, which Python does not pass to exit handlers."""
        if threading.current_thread() is threading.main_thread():
            self._exit_code = (
                0 if status is None else status & 0xFF if isinstance(status, int) else 1
            )
        self._exit(status)

    def _at_exit(self) -> None:
        if self._is_open and self._exit_code:
            self._abort(self._exit_code)
