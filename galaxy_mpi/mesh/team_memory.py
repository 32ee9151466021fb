"""What the processes of a team share on one host: barrier, signals, digests, rows and boxes.

One file has what does not depend on sizes::

    barrier | came | digests, 2 turns x chips | signals

Each slot of each group has another file, which grows: rows of a table, or boxes.

Digests of labels are stored in two turns. A process that leaves the barrier for the n-th time has
seen those of turn n, and no process writes those of turn n + 2 before all have entered turn n + 1.

Without files, it is private memory of one process, which then waits for no other.
"""

import os
from collections.abc import Sequence

import numpy as np

from galaxy_mpi.arrays import Bytes
from galaxy_mpi.mesh.barrier import BARRIER_BYTES, SIGNAL_BYTES, Barrier, Signal
from galaxy_mpi.mesh.host_memory import GrowingMemory, map_file
from galaxy_mpi.mesh.placement import Placement, Team
from galaxy_mpi.mesh.plane import N_SLOTS
from galaxy_mpi.mesh.waits import DIGEST_BYTES

__all__ = ["TeamMemory", "n_files"]

_N_TURNS = 2


def _padded(n_bytes: int) -> int:
    return -(-n_bytes // 64) * 64


class TeamMemory:
    """The memory of a team on one host, as one of its processes sees it.

    Parameters
    ----------
    placement : Placement
    team : Team
    ranks : sequence of int
        Its processes on this host, ascending.
    rank : int
        This process, one of them.
    files : sequence of int or None
        As many as `n_files`; None for private memory of this process.

    Attributes
    ----------
    chips : tuple of int
        The team's chips on this host, ascending.
    turn : list of int
        Its only element counts how many times this process has entered the barrier.
    came : memoryview
        How many times each process has entered the barrier.
    digests : list of (memoryview, memoryview)
        By turn modulo 2: the digests of the labels of all chips, `DIGEST_BYTES` each, and those
        of this process's chips.
    """

    def __init__(
        self,
        placement: Placement,
        team: Team,
        ranks: Sequence[int],
        rank: int,
        files: Sequence[int] | None = None,
    ) -> None:
        self.team, self.ranks, self.rank, self.turn = team, tuple(ranks), rank, [0]
        self.place = self.ranks.index(rank)
        owners = [placement.rank_of(chip) for chip in team.chips]
        self.chips = tuple(c for c, owner in zip(team.chips, owners, strict=True) if owner in ranks)
        here = [placement.rank_of(chip) for chip in self.chips]
        first = here.index(rank)
        mine = slice(DIGEST_BYTES * first, DIGEST_BYTES * (first + here.count(rank)))
        n_bytes = header_bytes(len(ranks), len(self.chips))
        header = _zeros(n_bytes) if files is None else map_file(files[0], n_bytes)
        self._file = None if files is None else files[0]
        self.barrier = Barrier(header[:BARRIER_BYTES])
        at = BARRIER_BYTES
        self.came = header[at : at + 8 * len(ranks)].data.cast("q")
        at += _padded(8 * len(ranks))
        self.digests: list[tuple[memoryview, memoryview]] = []
        for _ in range(_N_TURNS):
            digests = header[at : at + DIGEST_BYTES * len(self.chips)].data
            self.digests.append((digests, digests[mine]))
            at += _padded(len(digests))
        self._signals = header[at:]
        self._slots = [
            [
                GrowingMemory(None if files is None else files[1 + N_SLOTS * group + slot])
                for slot in range(N_SLOTS)
            ]
            for group in range(len(team.groups))
        ]

    @property
    def bytes_per_chip(self) -> int:
        """A chip's share of the memory of all slots that this process has mapped."""
        return sum(len(memory) for slots in self._slots for memory in slots) // len(self.chips)

    def slot(self, group: int, slot: int, n_bytes: int) -> Bytes:
        """Return memory of a slot of a group, by the group's number in the team."""
        return self._slots[group][slot].at_least(n_bytes)

    def signal(self, sender: int, receiver: int) -> Signal:
        """Return the signal of one process to another of this host."""
        n = self.ranks.index(sender) * len(self.ranks) + self.ranks.index(receiver)
        return Signal(self._signals[n * SIGNAL_BYTES : (n + 1) * SIGNAL_BYTES])

    def prepare(self) -> None:
        """Initialise barrier and signals. One process of the host does, before any uses them."""
        self.barrier.prepare(len(self.ranks))
        for sender in self.ranks:
            for receiver in self.ranks:
                self.signal(sender, receiver).prepare()

    def missing(self, turn: int) -> list[int]:
        """Return the processes that have not entered the barrier for the ``turn``-th time."""
        return [r for r, came in zip(self.ranks, self.came, strict=True) if came < turn]

    def close(self) -> None:
        """Close the files; mapped memory goes with its last view."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
        for slots in self._slots:
            for memory in slots:
                memory.close()


def _zeros(n_bytes: int) -> Bytes:
    """Return memory that is aligned to a cache line, as a mapped file is."""
    whole = np.zeros(n_bytes + 64, np.uint8)
    start = -whole.__array_interface__["data"][0] % 64
    return whole[start : start + n_bytes]


def n_files(team: Team) -> int:
    """Return how many files a team needs on a host."""
    return 1 + N_SLOTS * len(team.groups)


def header_bytes(n_ranks: int, n_chips: int) -> int:
    """Return the size of the file with what does not depend on sizes."""
    digests = _N_TURNS * _padded(DIGEST_BYTES * n_chips)
    return BARRIER_BYTES + _padded(8 * n_ranks) + digests + SIGNAL_BYTES * n_ranks**2
