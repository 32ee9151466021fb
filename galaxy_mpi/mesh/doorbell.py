"""How a process sleeps until a message has been sent to it, where MPI alone would poll.

With more processes than cores, a process that polls takes the core of the one it waits for.
Processes on one host that can share memory therefore have a doorbell each: whoever starts a message
to another process of the host rings that process's doorbell, and a process whose messages are not
complete sleeps until its own rings. The messages are still MPI's.

A sleep is short in any case, because MPI may need this process to make progress on a large message.
"""

import ctypes
import os
import time
from collections.abc import Callable, Sequence

from galaxy_mpi.arrays import Bytes
from galaxy_mpi.mesh.barrier import SIGNAL_BYTES, Signal

__all__ = ["DOORBELL_BYTES", "Doorbells"]

DOORBELL_BYTES = SIGNAL_BYTES
"""Size of one doorbell."""

_SLEEP_NS = 1_000_000


class _TimeSpec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class Doorbells:
    """The doorbells of a host, seen from one of its processes.

    Parameters
    ----------
    memory : Bytes
        `DOORBELL_BYTES` for each process, shared by all.
    ranks : sequence of int
        The processes of the host, in the order of their doorbells.
    rank : int
        This process.

    Attributes
    ----------
    is_crowded : bool
        Whether the host has more processes than cores, so that sleeping beats polling.
    """

    def __init__(self, memory: Bytes, ranks: Sequence[int], rank: int) -> None:
        self._doorbells = {
            owner: Signal(memory[n * DOORBELL_BYTES : (n + 1) * DOORBELL_BYTES])
            for n, owner in enumerate(ranks)
        }
        self._mine = self._doorbells[rank]
        self._until = _TimeSpec()
        self._until_place = ctypes.byref(self._until)
        self.is_crowded = len(ranks) > (os.cpu_count() or 1)

    def prepare(self) -> None:
        """Initialise all doorbells. One process of the host does, before any uses them."""
        for doorbell in self._doorbells.values():
            doorbell.prepare()

    def __contains__(self, rank: int) -> bool:
        return rank in self._doorbells

    def ring(self, rank: int) -> Callable[[], int]:
        """Return a function that rings the doorbell of a process of the host."""
        return self._doorbells[rank].post

    def sleep(self) -> None:
        """Sleep until this process's doorbell rings, or a short time if it does not.

        A ring since the last sleep counts: then this returns at once.
        """
        seconds, nanoseconds = divmod(time.time_ns() + _SLEEP_NS, 1_000_000_000)
        self._until.seconds, self._until.nanoseconds = seconds, nanoseconds
        self._mine.take_until(self._until_place)
