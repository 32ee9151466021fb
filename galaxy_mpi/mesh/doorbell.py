"""How a process sleeps until a message has been sent to it, where MPI alone would poll.

With more processes than cores, one that polls takes the core of the one it waits for. Processes of
a host that may share memory therefore have a semaphore each: whoever starts a message to another
process of the host rings its doorbell, and a process whose messages are not complete sleeps until
it rings. The message itself is MPI's.

The sleep is short in any case: MPI may need this process to make progress on a large message.
"""

import ctypes
import os
import time
from collections.abc import Callable, Sequence

from galaxy_mpi.arrays import Bytes
from galaxy_mpi.mesh.barrier import SEMAPHORE_BYTES, Semaphore

__all__ = ["DOORBELL_BYTES", "Doorbells"]

DOORBELL_BYTES = SEMAPHORE_BYTES
"""Of each process."""

_SLEEP_NS = 1_000_000


class _TimeSpec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class Doorbells:
    """The doorbells of a host, as one of its processes sees them.

    Parameters
    ----------
    memory : Bytes
        `DOORBELL_BYTES` for each process, the same for all.
    ranks : sequence of int
        The processes of the host, in the order of their doorbells.
    rank : int
        This process.

    Attributes
    ----------
    is_crowded : bool
        Whether this host has more processes than cores, so that sleeping is better than polling.
    """

    def __init__(self, memory: Bytes, ranks: Sequence[int], rank: int) -> None:
        self._semaphores = {
            owner: Semaphore(memory[n * DOORBELL_BYTES : (n + 1) * DOORBELL_BYTES])
            for n, owner in enumerate(ranks)
        }
        self._mine = self._semaphores[rank]
        self._until = _TimeSpec()
        self._until_place = ctypes.byref(self._until)
        self.is_crowded = len(ranks) > (os.cpu_count() or 1)

    def prepare(self) -> None:
        """Make all, silent; one process of the host does, before any uses them."""
        for semaphore in self._semaphores.values():
            semaphore.prepare()

    def ring(self, rank: int) -> Callable[[], int]:
        """Return what rings the doorbell of a process of the host."""
        return self._semaphores[rank].post

    def __contains__(self, rank: int) -> bool:
        return rank in self._semaphores

    def sleep(self) -> None:
        """Return when this process's doorbell has rung since it was last heard, or soon after."""
        seconds, nanoseconds = divmod(time.time_ns() + _SLEEP_NS, 1_000_000_000)
        self._until.seconds, self._until.nanoseconds = seconds, nanoseconds
        self._mine.take_until(self._until_place)
