"""End a process that others may wait for: at once, even if its message cannot be printed.

A standard error that is closed, full or never read must not keep a rank alive. The message is a
single write whose failure is ignored, and a timer ends the process if the write blocks.
"""

import _thread
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import NoReturn

__all__ = [
    "Interrupted",
    "Terminated",
    "end_process",
    "end_within",
    "flush",
    "interrupted_on_request",
    "say",
    "terminated_as_interrupted",
    "uninterrupted",
]

GRACE_S = 3.0
"""Time limit for the last message and the library's own shutdown."""


def say(text: str) -> None:
    """Write a text to standard error in one write, if possible.

    If the stream has a descriptor, write to that, because another thread may hold the stream's
    lock.
    """
    stream = sys.stderr
    if stream is None:  # Python was started with a closed descriptor
        return
    with contextlib.suppress(Exception):
        try:
            os.write(stream.fileno(), text.encode("utf-8", "backslashreplace"))
        except (AttributeError, ValueError):  # a stream without a descriptor
            stream.write(text)


def flush() -> None:
    """Flush standard output and error; what cannot be flushed is lost."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()


def end_within(code: int, grace_s: float = GRACE_S) -> None:
    """End this process with ``code`` in ``grace_s`` seconds, if nothing else has ended it."""

    def end() -> None:
        time.sleep(grace_s)
        os._exit(code)

    with contextlib.suppress(Exception):  # an interpreter that shuts down starts no threads
        # Thread.start waits until the thread has begun, which it never does without memory.
        _thread.start_new_thread(end, ())


class Terminated(KeyboardInterrupt):
    """A request to end (SIGTERM)."""


class Interrupted(Terminated):
    """The user's request to end (SIGUSR1), which leaves all the time that a report takes."""


def interrupted_on_request(*, is_rank_0: bool) -> None:
    """From now on, let SIGUSR1 raise `Interrupted` on rank 0; other ranks ignore it.

    Open MPI's mpirun forwards it to all ranks and, unlike after SIGINT, leaves them running.
    """

    def interrupt(number: int, frame: object) -> NoReturn:
        raise Interrupted

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGUSR1, interrupt if is_rank_0 else signal.SIG_IGN)


@contextlib.contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """Let a request to end (SIGTERM) raise `Terminated`, an interrupt, in the body.

    It is what launchers send to ranks when they are interrupted themselves.
    """

    def interrupt(number: int, frame: object) -> NoReturn:
        raise Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def uninterrupted() -> None:
    """Ignore further requests to end from now on, while what there is is written."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGUSR1, signal.SIGTERM):
            if callable(signal.getsignal(number)):  # ours; in other programs nothing changes
                signal.signal(number, signal.SIG_IGN)


def end_process(message: str = "", code: int = 1) -> NoReturn:
    """End this process, from any thread, after printing a message if possible.

    The launcher ends the other ranks, because ``code`` is not 0.
    """
    try:
        end_within(code)
        flush()
        if message:
            say(message)
    finally:
        os._exit(code)
