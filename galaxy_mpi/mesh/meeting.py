"""A barrier of processes on one host that sleeps: semaphores in memory that all of them map.

POSIX semaphores of the C library, called through ctypes: one that nobody waits for costs no
system call, one that is waited for sleeps in the kernel (futex). They have no name and lie in the
memory of the group (`galaxy_mpi.mesh.shared`), so nothing can be left behind.

One semaphore has a ticket for every member but one. Who finds none is the last to come: it puts
the tickets back and wakes the others, each once. The two semaphores that they sleep on are taken
in turn, because a quick member may come again before a slow one has left.
"""

import ctypes
import os
from typing import Any

from galaxy_mpi.arrays import Bytes
from galaxy_mpi.errors import CollectiveError

__all__ = ["MEETING_BYTES", "Meeting", "can_meet"]

_SEMAPHORE_BYTES = 64
"""More than a sem_t has anywhere, and a cache line."""

_MOST_MEMBERS = 1024

MEETING_BYTES = 3 * _SEMAPHORE_BYTES + 8 * _MOST_MEMBERS
"""Of memory, in which all members see the same."""


def _library() -> Any:
    return ctypes.CDLL(None, use_errno=True)


def can_meet() -> bool:
    """Return whether the C library has the semaphores."""
    try:
        library = _library()
    except OSError:
        return False
    return all(hasattr(library, name) for name in ("sem_init", "sem_post", "sem_trywait"))


class Meeting:
    """One member's part of the barrier.

    Parameters
    ----------
    memory : Bytes
        `MEETING_BYTES` bytes, zeros at first, the same memory for all members.
    index, size : int
        This member's place, and how many there are.
    """

    def __init__(self, memory: Bytes, index: int, size: int) -> None:
        if size > _MOST_MEMBERS:
            raise CollectiveError(f"{size} chips in one group; {_MOST_MEMBERS} can meet")
        self._memory = memory  # keeps it mapped
        start = memory.__array_interface__["data"][0]
        places = (ctypes.c_void_p(start + n * _SEMAPHORE_BYTES) for n in range(3))
        self._tickets, *self._doors = places
        self.index, self.size, self._others = index, size, range(size - 1)
        begin = 3 * _SEMAPHORE_BYTES
        self._came = memory[begin : begin + 8 * size].data.cast("q")
        self._turn = 0
        library, quick = _library(), ctypes.PyDLL(None)
        # A call of CDLL lets other threads run, which only the one that may sleep needs to.
        self._init, self._wait = library.sem_init, library.sem_wait
        self._post, self._try_wait = quick.sem_post, quick.sem_trywait

    def prepare(self) -> None:
        """Set the semaphores; one member does, before any comes."""
        for semaphore, value in ((self._tickets, self.size - 1), *((d, 0) for d in self._doors)):
            if self._init(semaphore, 1, value):
                raise CollectiveError(f"no semaphore: {os.strerror(ctypes.get_errno())}")

    def meet(self) -> None:
        """Return when all members have come."""
        self._turn += 1
        self._came[self.index] = self._turn
        door = self._doors[self._turn & 1]
        if self._try_wait(self._tickets):
            post = self._post
            for _ in self._others:
                post(self._tickets)
            for _ in self._others:
                post(door)
            return
        while self._wait(door):  # a signal came in between
            pass

    def missing(self) -> list[int]:
        """Return who has not come to the meeting that this member waits for."""
        return [member for member, turn in enumerate(self._came) if turn < self._turn]
