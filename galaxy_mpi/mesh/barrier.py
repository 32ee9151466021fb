"""Barrier and signals for the processes of a host; waiting processes sleep.

They are the C library's ``pthread_barrier_t``, called through ctypes, and ``sem_t``, called through
Python's own semaphores, which takes less time. They are in memory that the processes map and have
no name, so nothing can be left behind. A wait sleeps in the kernel (futex) and never spins: with 32
ranks on a few cores, a spinning rank would occupy the core of the ranks it waits for.

A barrier is one call, and the last process to arrive wakes all others with one system call. It can
be used again at once: a process that re-enters before a slow member has left counts for the next
round.

*Memory order.* What a process wrote before it entered must be visible to all that leave, also on
processors that reorder writes (ARM64). POSIX promises it for ``pthread_barrier_wait``, ``sem_post``
and ``sem_wait`` ("Memory Synchronization"), and for ``sem_trywait`` that takes one. An earlier
barrier, of tickets taken by ``sem_trywait``, relied on a failing call, which synchronizes nothing.
"""

import ctypes
import os
from collections.abc import Callable
from functools import cache
from typing import Any

from galaxy_mpi.arrays import Bytes
from galaxy_mpi.errors import CollectiveError

__all__ = ["BARRIER_BYTES", "MOST_POSTS", "SIGNAL_BYTES", "Barrier", "Signal", "has_barriers"]

BARRIER_BYTES = 128
"""More than a pthread_barrier_t has anywhere, and whole cache lines."""

_SEMAPHORE_BYTES = 64
"""More than a sem_t has anywhere, and a cache line."""

MOST_POSTS = 192
"""How many posts of a signal keep their numbers."""

SIGNAL_BYTES = _SEMAPHORE_BYTES + MOST_POSTS

_PROCESS_SHARED = 1
_COUNTING = 1
"""Kind of SemLock that any thread or process may release."""
_ATTRIBUTE_BYTES = 64
_FUNCTIONS = (
    "pthread_barrier_init",
    "pthread_barrier_wait",
    "sem_init",
    "gnu_get_libc_version",
)


@cache
def _library() -> Any:
    return ctypes.CDLL(None, use_errno=True)


def _semaphores() -> Any:
    """Return Python's class of semaphores, which a Python may have been built without."""
    from _multiprocessing import SemLock  # type: ignore[import-not-found]

    return SemLock


def has_barriers() -> bool:
    """Return whether the C library is GNU's and has the functions used here, and so has Python."""
    try:
        library, semaphores = _library(), _semaphores()
    except (OSError, ImportError):
        return False
    return hasattr(semaphores, "_rebuild") and all(hasattr(library, name) for name in _FUNCTIONS)


def _address(memory: Bytes, n_bytes: int) -> int:
    assert len(memory) >= n_bytes, "not enough memory for a barrier or signal"
    start: int = memory.__array_interface__["data"][0]
    assert start % 64 == 0, "not aligned to a cache line"
    return start


class Barrier:
    """A barrier of several processes, as one of them sees it.

    Parameters
    ----------
    memory : Bytes
        `BARRIER_BYTES` bytes, the same for all processes, which keep it mapped.
    """

    def __init__(self, memory: Bytes) -> None:
        self._memory = memory  # keeps it mapped
        self.place = ctypes.c_void_p(_address(memory, BARRIER_BYTES))
        self.wait_at = _library().pthread_barrier_wait
        """``wait_at(place)`` returns when all have called it: -1 for one of them, 0 for others."""

    def prepare(self, size: int) -> None:
        """Initialise a barrier of ``size`` members. One of them does, before any enters.

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
        """Return when all members have entered."""
        self.wait_at(self.place)


class Signal:
    """A semaphore that one process posts and another waits for; several posts may be pending.

    Each post carries a number below 256, in memory next to the semaphore.

    Parameters
    ----------
    memory : Bytes
        `SIGNAL_BYTES` bytes, the same for both.

    Attributes
    ----------
    post : callable
        Lets the other process continue, now or when it waits.
    take : callable
        Waits for a post and takes it. ``take(False)`` does not wait; it returns whether there was
        one.
    numbers : memoryview
        `MOST_POSTS` bytes, written before a post and read after it is taken.
    """

    def __init__(self, memory: Bytes) -> None:
        self._memory = memory  # keeps it mapped
        place = _address(memory, SIGNAL_BYTES)
        self._place = ctypes.c_void_p(place)
        # Without a name it uses the semaphore at an address. Python calls sem_close on it at exit;
        # only the GNU C library is known to ignore that for an unnamed semaphore.
        kind = _semaphores()
        semaphore = kind._rebuild(place, _COUNTING, kind.SEM_VALUE_MAX, None)
        self.post: Callable[[], None] = semaphore.release
        self.take: Callable[..., bool] = semaphore.acquire
        self.numbers = memory.data[_SEMAPHORE_BYTES:SIGNAL_BYTES]

    def prepare(self) -> None:
        """Initialise it without posts. One process does, before any waits.

        Raises
        ------
        CollectiveError
            If the system has no such semaphores.
        """
        if _library().sem_init(self._place, _PROCESS_SHARED, ctypes.c_uint(0)):
            raise CollectiveError(f"no semaphore: {os.strerror(ctypes.get_errno())}")
