"""Standard input and output of this process, for ranks; see `galaxy_mpi.streams`.

mpirun has a session of its own and cannot read a terminal, so what is typed is passed on to it if
a rank may read it. Otherwise it is left to whoever reads the terminal next.
"""

import errno
import os
import select
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise

from galaxy_mpi.streams import INPUT, OUTPUT

__all__ = ["Input", "output_of_this_process"]

_IN_THE_BACKGROUND_S = 0.5
"""Time between attempts to read a terminal that belongs to another job at the moment."""


class Input:
    """Standard input of a command that mpirun starts.

    Parameters
    ----------
    words : sequence of str
        The command. An argument ``-`` asks for standard input. So does ``--wait-timeout 0``, for
        a debugger on rank 0.

    Attributes
    ----------
    of_mpirun : int or None
        What mpirun gets as standard input; None: that of this process.
    variables : dict of str to str
        For the ranks.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.of_mpirun: int | None = None
        self.variables: dict[str, str] = {}
        self._to: int | None = None
        is_asked = any(word == "-" or word.endswith("=-") for word in words)
        if is_asked and sys.platform == "linux":
            if sys.stdin is None:  # closed: its number would be that of the next descriptor
                os.open(os.devnull, os.O_RDONLY)
            to_ranks, self._to = os.pipe()
            self.of_mpirun = subprocess.DEVNULL
            self.variables = {INPUT: f"/proc/{os.getpid()}/fd/{to_ranks}"}
        elif os.isatty(0):
            self.of_mpirun = subprocess.DEVNULL
            if _waits_without_limit(words):
                self.of_mpirun, self._to = os.pipe()

    def pass_on(self) -> None:
        """Begin to pass on what is read, in a thread, until it ends.

        The caller ignores SIGTTIN: in the background, reading a terminal fails and stops nothing.
        """
        if self._to is not None:
            threading.Thread(target=_pass_on, args=(self._to,), name="input", daemon=True).start()


def output_of_this_process() -> dict[str, str]:
    """Return the variable that tells rank 0 where this process's output is.

    Empty if it is a file, which has a position that only this process's descriptor knows, or if
    the system has no ``/proc``.
    """
    try:
        is_pipe = stat.S_ISFIFO(os.fstat(1).st_mode)
    except OSError:  # it is closed
        return {}
    is_known = sys.platform == "linux" and (is_pipe or os.isatty(1))
    return {OUTPUT: f"/proc/{os.getpid()}/fd/1"} if is_known else {}


def _waits_without_limit(words: Sequence[str]) -> bool:
    return ("--wait-timeout", "0") in pairwise(words) or "--wait-timeout=0" in words


def _pass_on(to: int) -> None:
    with suppress(OSError), open(to, "wb") as pipe:  # no rank reads any more
        while chunk := _read():
            pipe.write(chunk)
            pipe.flush()


def _read() -> bytes:
    while True:
        try:
            return os.read(0, 65536)
        except BlockingIOError:  # whoever made it does not wait; nothing has come yet
            select.select([0], [], [])
        except OSError as error:
            if error.errno != errno.EIO:
                reason = error.strerror or str(error)
                print(f"galaxy_mpi: standard input cannot be read: {reason}", file=sys.stderr)
                return b""
            if not os.isatty(0) or os.tcgetpgrp(0) == os.getpgrp():
                return b""  # the terminal is gone
            time.sleep(_IN_THE_BACKGROUND_S)
