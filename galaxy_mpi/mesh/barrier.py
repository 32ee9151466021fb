"""Where the processes of a host wait for each other: a barrier and notices, both asleep.

They are the C library's (``pthread_barrier_t`` and ``sem_t``, shared among processes), called
through ctypes. They lie in memory that the processes map, and have no name, so nothing can be left
behind. A wait sleeps in the kernel (futex) and never spins: with 32 ranks on a few cores, one that
spins takes the core of those it waits for.

The barrier is one call. The last to come wakes all others with one system call. It may be used
again at once: who comes again before a slow member has left counts for the next round.

*Memory order.* What a process wrote before it entered must be seen by all who leave, on processors
that reorder writes (ARM64) too. POSIX promises it for ``pthread_barrier_wait``, ``sem_post`` and
``sem_wait`` ("Memory Synchronization"), and for ``sem_trywait`` that takes one. An earlier barrier,
of tickets taken by ``sem_trywait``, relied on a call that fails, which synchronizes nothing.
"""

import ctypes
import os
from collections.abc import Callable
from functools import cache, partial
from typing import Any

from galaxy_mpi.arrays import Bytes
from galaxy_mpi.errors import CollectiveError

__all__ = [
    "BARRIER_BYTES",
    "MOST_POSTS",
    "NOTICE_BYTES",
    "SEMAPHORE_BYTES",
    "Barrier",
    "Notice",
    "Semaphore",
    "has_barriers",
]

BARRIER_BYTES = 128
"""More than a pthread_barrier_t has anywhere, and whole cache lines."""

SEMAPHORE_BYTES = 64
"""More than a sem_t has anywhere, and a cache line."""

MOST_POSTS = 192
"""Posts of a notice whose numbers are kept."""

NOTICE_BYTES = SEMAPHORE_BYTES + MOST_POSTS

_PROCESS_SHARED = 1
_ATTRIBUTE_BYTES = 64
_FUNCTIONS = (
    "pthread_barrier_init",
    "pthread_barrier_wait",
    "sem_init",
    "sem_post",
    "sem_timedwait",
    "sem_trywait",
    "sem_wait",
)


@cache
def _library() -> Any:
    return ctypes.CDLL(None, use_errno=True)


@cache
def _quick_library() -> Any:
    """Return the C library without giving way to other threads: for calls that never sleep."""
    return ctypes.PyDLL(None)


def has_barriers() -> bool:
    """Return whether the C library has what is needed."""
    try:
        library = _library()
    except OSError:
        return False
    return all(hasattr(library, name) for name in _FUNCTIONS)


def _address(memory: Bytes, n_bytes: int) -> int:
    assert len(memory) >= n_bytes, "less memory than a barrier or notice takes"
    start: int = memory.__array_interface__["data"][0]
    assert start % 64 == 0, "not at the beginning of a cache line"
    return start


class Barrier:
    """A barrier of so many processes, as one of them sees it.

    Parameters
    ----------
    memory : Bytes
        `BARRIER_BYTES` bytes, the same for all, kept mapped by whoever waits.
    """

    def __init__(self, memory: Bytes) -> None:
        self._memory = memory  # keeps it mapped
        self.place = ctypes.c_void_p(_address(memory, BARRIER_BYTES))
        self.wait_at = _library().pthread_barrier_wait
        """``wait_at(place)`` returns when all have called it: 0, or -1 to one of them."""

    def prepare(self, size: int) -> None:
        """Make a barrier of ``size`` members; one of them does, before any comes.

        Raises
        ------
        CollectiveError
            If the system has no such barriers.
        """
        library, attribute = _library(), ctypes.create_string_buffer(_ATTRIBUTE_BYTES)
        error = (
            library.pthread_barrierattr_init(attribute)
            or library.pthread_barrierattr_setpshared(attribute, _PROCESS_SHARED)
            or library.pthread_barrier_init(self.place, attribute, ctypes.c_uint(size))
        )
        if error:
            raise CollectiveError(f"no barrier of {size} processes: {os.strerror(error)}")

    def wait(self) -> None:
        """Return when all members have come."""
        self.wait_at(self.place)


class Semaphore:
    """A counter that one process raises and another waits for.

    Parameters
    ----------
    memory : Bytes
        `SEMAPHORE_BYTES` bytes, the same for both.

    Attributes
    ----------
    post : callable
        Lets the other go on, now or when it comes.
    try_take : callable
        Takes one that has been posted: 0; or does not wait for one: -1.
    take : callable
        Waits for one and takes it: 0; or a signal came in between: -1.
    take_until : callable
        The same, until a time of the system's clock, a pointer to a timespec: then -1.
    """

    def __init__(self, memory: Bytes) -> None:
        self._memory = memory  # keeps it mapped
        self._place = place = ctypes.c_void_p(_address(memory, SEMAPHORE_BYTES))
        self.post: Callable[[], int] = partial(_quick_library().sem_post, place)
        self.try_take: Callable[[], int] = partial(_quick_library().sem_trywait, place)
        self.take: Callable[[], int] = partial(_library().sem_wait, place)
        self.take_until: Callable[[Any], int] = partial(_library().sem_timedwait, place)

    def prepare(self) -> None:
        """Make it, with nothing posted; one process does, before any waits.

        Raises
        ------
        CollectiveError
            If the system has no such semaphores.
        """
        if _library().sem_init(self._place, _PROCESS_SHARED, ctypes.c_uint(0)):
            raise CollectiveError(f"no semaphore: {os.strerror(ctypes.get_errno())}")


class Notice:
    """What one process posts for another that waits for it; several may be underway.

    Beside it is room for what each post stands for, a number below 256.

    Parameters
    ----------
    memory : Bytes
        `NOTICE_BYTES` bytes, the same for both.

    Attributes
    ----------
    post : callable
        Lets the other go on, now or when it comes.
    try_take : callable
        Takes one that has been posted: 0; or does not wait for one: -1.
    numbers : memoryview
        `MOST_POSTS` bytes, written before a post and read after it has been taken.
    prepare : callable
        Makes it, with nothing posted, see `Semaphore.prepare`.
    """

    def __init__(self, memory: Bytes) -> None:
        semaphore = Semaphore(memory[:SEMAPHORE_BYTES])
        self.post, self.try_take, self._take = semaphore.post, semaphore.try_take, semaphore.take
        self.prepare = semaphore.prepare
        self.numbers: Any = memory.data[SEMAPHORE_BYTES:NOTICE_BYTES]

    def wait(self) -> None:
        """Return when one more has been posted."""
        while self._take():  # a signal came in between
            pass
