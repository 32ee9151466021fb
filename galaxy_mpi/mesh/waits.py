"""What a process waits for, told to its watchdog and to the other processes of the host.

Each process has a line in a page that all processes of a host map: how many times it began or
ended to wait (odd: it waits), and the text of what it waits for. So a watchdog that sees nobody
come can say what the others wait for instead, and whether anybody moves at all.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from galaxy_mpi.arrays import Bytes
from galaxy_mpi.mesh.plane import TEXT_BYTES

__all__ = ["LINE_BYTES", "Waits", "padded"]

LINE_BYTES = 128


class Waiting(Protocol):
    """A wait, for messages."""

    def describe(self, waited_s: float) -> str:
        """Return who waits for whom, in which collective."""


def padded(text: str) -> bytes:
    """Return a text as it travels: cut, or filled up with zeros, to `TEXT_BYTES`."""
    return text.encode("utf-8", "replace")[:TEXT_BYTES].ljust(TEXT_BYTES, b"\0")


def text_of(line: Any) -> str:
    """Return the text of `padded` bytes."""
    return bytes(line).rstrip(b"\0").decode("utf-8", "replace")


class Waits:
    """The line of one process.

    Parameters
    ----------
    page : Bytes, optional
        Of the host: `LINE_BYTES` for each process. A page of its own by default.
    ranks : sequence of int
        The processes of the host, in the order of their lines.
    rank : int
        This process.

    Attributes
    ----------
    count : memoryview
        Whose only element is how many times this process began or ended to wait. Whoever waits
        adds one before and one after.
    text : memoryview
        Of what it waits for: written before ``count``.
    crossing : Waiting or None
        What it waits for, if ``count`` is odd.
    """

    def __init__(self, rank: int, ranks: Sequence[int] = (), page: Bytes | None = None) -> None:
        self.rank, self.ranks = rank, tuple(ranks) or (rank,)
        if page is None:
            page = np.zeros(LINE_BYTES * len(self.ranks), np.uint8)
        lines = page[: LINE_BYTES * len(self.ranks)].reshape(-1, LINE_BYTES)
        self._counts = lines[:, :8].view(np.uint64)[:, 0]
        self._texts = [memoryview(line[8 : 8 + TEXT_BYTES]) for line in lines]  # type: ignore[arg-type]
        place = self.ranks.index(rank)
        self.count: Any = memoryview(lines[place, :8]).cast("Q")  # type: ignore[arg-type]
        self.text: Any = self._texts[place]
        self.crossing: Waiting | None = None

    @property
    def number(self) -> int:
        """How many times this process began or ended to wait; odd while it waits."""
        return int(self.count[0])

    def counts(self) -> tuple[int, ...]:
        """Return that of every process of the host."""
        return tuple(self._counts.tolist())

    def all_wait(self) -> bool:
        """Return whether every process of the host waits."""
        return bool((self._counts & np.uint64(1)).all())

    def doing(self, rank: int) -> str:
        """Return what a process of the host waits for; empty if it works or is elsewhere."""
        if rank not in self.ranks:
            return ""
        place = self.ranks.index(rank)
        return text_of(self._texts[place]) if int(self._counts[place]) % 2 else ""


class Names(Protocol):
    """Who knows which process plays which chips (a plane)."""

    rank: int

    def names(self, rank: int) -> str:
        """Return how messages call a process."""


def describe(names: Names, text: str, missing: Sequence[int], waits: Waits, waited_s: float) -> str:
    """Return the line of a process that waited in vain.

    Parameters
    ----------
    names : Names
    text : str
        Of the collective.
    missing : sequence of int
        The processes that have not come.
    waits : Waits
        Knows what they wait for instead.
    waited_s : float
    """
    whom = " and ".join(names.names(rank) for rank in missing) or "nobody"
    line = f"{names.names(names.rank)} waited {waited_s:.0f} s for {whom} in {text}"
    doing = {rank: waits.doing(rank) for rank in missing}
    told = [f"{names.names(rank)} waits in {what}" for rank, what in doing.items() if what]
    return "; ".join([line, *told]) if told else f"{line}; did that rank end or stop?"
