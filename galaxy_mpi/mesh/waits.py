"""What a process waits for, told to its watchdog and to the other processes of the host.

Each process has a line in a page that all processes of a host map: how many times it began or ended
to wait (odd: it waits), and the text of what it waits for. So a watchdog that sees nobody come can
say what the others wait for instead, and whether anybody moves at all.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np

from galaxy_mpi.arrays import Bytes
from galaxy_mpi.mesh.plane import TEXT_BYTES

__all__ = ["LINE_BYTES", "Waiting", "Waits", "describe", "padded", "text_of"]

LINE_BYTES = 128

_MOST_TOLD = 4
"""Places, and processes of each, that a message names."""


class Waiting(Protocol):
    """A wait, for messages."""

    def describe(self, waited_s: float) -> str:
        """Return who waits for whom, in which collective."""


class Waits:
    """The line of one process.

    Parameters
    ----------
    rank : int
        This process.
    ranks : sequence of int
        The processes of the host, in the order of their lines.
    page : Bytes, optional
        Of the host: `LINE_BYTES` for each process. A page of its own by default.
    names : callable
        Says how messages call a process.
    is_whole : bool
        Whether these are all processes of the run.

    Attributes
    ----------
    count : memoryview
        Whose only element is how many times this process began or ended to wait. Whoever waits
        adds one before and one after.
    text : memoryview
        Of what it waits for: written before ``count``.
    crossing : Waiting or None
        What it waits for, if ``count`` is odd; None if that may take as long as it likes.
    """

    def __init__(
        self,
        rank: int,
        ranks: Sequence[int] = (),
        page: Bytes | None = None,
        *,
        names: Callable[[int], str] = "rank {}".format,
        is_whole: bool = False,
    ) -> None:
        self.rank, self.ranks = rank, tuple(ranks) or (rank,)
        self.names, self._is_whole = names, is_whole
        if page is None:
            page = np.zeros(LINE_BYTES * len(self.ranks), np.uint8)
        lines = page[: LINE_BYTES * len(self.ranks)].reshape(-1, LINE_BYTES)
        self._counts = lines[:, :8].view(np.uint64)[:, 0]
        self._texts: list[Any] = [line[8 : 8 + TEXT_BYTES].data for line in lines]
        place = self.ranks.index(rank)
        self.count: Any = lines[place, :8].data.cast("Q")
        self.text: Any = self._texts[place]
        self.crossing: Waiting | None = None

    @property
    def number(self) -> int:
        """How many times this process began or ended to wait; odd while it waits."""
        return int(self.count[0])

    @property
    def is_first(self) -> bool:
        """Whether this process has the first line of the page."""
        return self.rank == self.ranks[0]

    def counts(self) -> tuple[int, ...]:
        """Return `number` of every process of the host."""
        return tuple(self._counts.tolist())

    @contextmanager
    def patiently(self, text: str) -> Iterator[None]:
        """Wait in the body for as long as it takes: for what a rank computes, or reads."""
        self.crossing = None
        self.text[:] = padded(text)
        self.count[0] += 1
        try:
            yield
        finally:
            self.count[0] += 1

    def doing(self, rank: int) -> str:
        """Return what a process of the host waits for; empty if it works or is elsewhere."""
        if rank not in self.ranks:
            return ""
        place = self.ranks.index(rank)
        return text_of(self._texts[place]) if int(self._counts[place]) % 2 else ""

    def standstill(self, waited_s: float) -> str:
        """Return who waits where, if every process of the run waits; empty otherwise."""
        if not self._is_whole or not (self._counts & np.uint64(1)).all():
            return ""
        where: dict[str, list[int]] = {}
        for rank in self.ranks:
            where.setdefault(self.doing(rank), []).append(rank)
        told = []
        for text, ranks in sorted(where.items(), key=lambda item: len(item[1]))[:_MOST_TOLD]:
            names = ", ".join(self.names(rank) for rank in ranks[:_MOST_TOLD])
            more = f" and {len(ranks) - _MOST_TOLD} more" if len(ranks) > _MOST_TOLD else ""
            told.append(f"{names}{more} in {text}")
        return f"all ranks wait, and none has moved for {waited_s:.0f} s: {'; '.join(told)}"


def describe(text: str, missing: Sequence[int], waits: Waits, waited_s: float) -> str:
    """Return the line of a process that waited in vain.

    Parameters
    ----------
    text : str
        Of the collective.
    missing : sequence of int
        The processes that have not come.
    waits : Waits
        Knows what they wait for instead.
    waited_s : float
    """
    whom = " and ".join(waits.names(rank) for rank in missing) or "nobody"
    line = f"{waits.names(waits.rank)} waited {waited_s:.0f} s for {whom} in {text}"
    doing = {rank: waits.doing(rank) for rank in missing}
    told = [f"{waits.names(rank)} waits in {what}" for rank, what in doing.items() if what]
    return "; ".join([line, *told]) if told else f"{line}; did that rank end or stop?"


def padded(text: str) -> bytes:
    """Return a text as it travels: cut, or filled up with zeros, to `TEXT_BYTES`."""
    return text.encode("utf-8", "replace")[:TEXT_BYTES].ljust(TEXT_BYTES, b"\0")


def text_of(line: Any) -> str:
    """Return the text of `padded` bytes."""
    return bytes(line).rstrip(b"\0").decode("utf-8", "replace")
