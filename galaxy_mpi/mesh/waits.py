"""What each process waits for, visible to its watchdog and to the other processes of the host.

Each process has a line in a page that all processes of a host map: how many times it began or ended
a wait (odd: it waits), the text of what it waits for, and its process id. A watchdog can therefore
report what the missing processes wait for instead, and whether any process makes progress.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np

from galaxy_mpi.arrays import Bytes
from galaxy_mpi.mesh.plane import TEXT_BYTES, Label

__all__ = ["DIGEST_BYTES", "LINE_BYTES", "Waiting", "Waits", "is_text", "padded", "text_of"]

LINE_BYTES = 128

DIGEST_BYTES = 8
"""Of a line's beginning: all that differs if labels differ."""

_REPORTS = "the writing of a report"
_NOTHING = "nothing: it has left"

_MOST_TOLD = 4
"""How many places, and processes at each, a message names."""


class Waiting(Protocol):
    """A wait for other processes, for messages."""

    label: Label

    def missing(self) -> list[int]:
        """Return the processes that have not arrived."""


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
        Returns the name of a process in messages.
    is_whole : bool
        Whether these are all processes of the run.

    Attributes
    ----------
    is_whole : bool
    count : memoryview
        Its only element counts how many times this process began or ended a wait.
    text : memoryview
        Text of what it waits for; written before ``count``.
    crossing : Waiting or None
        What it waits for, if ``count`` is odd; None for a wait without limit.
    about : str
        What the chips of this process are doing, for messages: ``decode step 12``.
    has_disagreed : bool
        Whether this process found a different collective than its own. From then on its text does
        not change, so that the others can report what this process was in.
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
        self.names, self.is_whole = names, is_whole
        if page is None:
            page = np.zeros(LINE_BYTES * len(self.ranks), np.uint8)
        lines = page[: LINE_BYTES * len(self.ranks)].reshape(-1, LINE_BYTES)
        self._counts = lines[:, :8].view(np.uint64)[:, 0]
        self._texts = [line[8 : 8 + TEXT_BYTES].data for line in lines]
        self.count = lines[self.place, :8].data.cast("Q")
        self.text = self._texts[self.place]
        self._pids = lines[:, 120:LINE_BYTES].view(np.uint64)[:, 0]
        self._pids[self.place] = os.getpid()
        self.crossing: Waiting | None = None
        self.about = ""
        self.has_disagreed = False

    @property
    def number(self) -> int:
        """How many times this process began or ended a wait; odd while it waits."""
        return int(self.count[0])

    @property
    def place(self) -> int:
        """The number of this process's line."""
        return self.ranks.index(self.rank)

    def counts(self) -> tuple[int, ...]:
        """Return `number` of every process of the host."""
        return tuple(self._counts.tolist())

    @contextmanager
    def patiently(self, text: str) -> Iterator[None]:
        """Allow the body to wait without limit: another rank may compute or read for long."""
        self.crossing = None
        if not self.has_disagreed:
            self.text[:] = padded(text)
        self.count[0] += 1
        try:
            yield
        finally:
            self.count[0] += 1

    def doing(self, rank: int) -> str:
        """Return what a process of the host waits for; empty if it works or is elsewhere."""
        if rank not in self.ranks or int(self._counts[self.ranks.index(rank)]) % 2 == 0:
            return ""
        return self.last(rank)

    def last(self, rank: int) -> str:
        """Return what a process of the host waits for or waited for last; empty if elsewhere."""
        return text_of(self._texts[self.ranks.index(rank)]) if rank in self.ranks else ""

    def leave(self) -> None:
        """Wait for nobody any more: this process writes a report, and then ends the run.

        It may have been interrupted in the middle of a wait.
        """
        self.crossing = None
        self.has_disagreed = True  # so that the text stays
        self.text[:] = padded(_REPORTS)
        self.count[0] += self.number % 2

    def end(self) -> None:
        """Wait for nobody any more: this process calls nothing collective from now on."""
        self.text[:] = padded(_NOTHING)
        self.count[0] += self.number % 2

    @property
    def is_ending(self) -> bool:
        """Whether a process of the host has left, so that waiting for it is no fault."""
        return any(text_of(text) == _REPORTS for text in self._texts)

    def stopped(self) -> list[int]:
        """Return the other processes of the host that are stopped, or ended unnoticed."""
        pids = zip(self.ranks, self._pids.tolist(), strict=True)
        return [rank for rank, pid in pids if pid and rank != self.rank and _state(pid) in "TtZX"]

    def behind_stopped(self, stopped: Sequence[int], waited_s: float) -> str:
        """Return the message for a wait without limit when others are stopped."""
        whom = " and ".join(self.names(rank) for rank in stopped[:_MOST_TOLD])
        where = self.doing(self.rank)
        verb = _verb([self.names(rank) for rank in stopped])
        return f"{self.names(self.rank)} waited {waited_s:.0f} s in {where}: {whom} {verb} stopped"

    def behind_ended(self, waited_s: float) -> str:
        """Return the message for a wait if others have called `end`; else empty.

        Empty too while a process of the host works, because it may be the one that is waited for.
        """
        told = zip(self.ranks, self.counts(), self._texts, strict=True)
        idle = {rank: text_of(text) == _NOTHING for rank, n, text in told if n % 2 == 0}
        if not idle or not all(idle.values()):
            return ""
        ended = [self.names(rank) for rank in idle]
        whom, verb = " and ".join(ended[:_MOST_TOLD]), "has" if _verb(ended) == "is" else "have"
        return (
            f"{self.names(self.rank)} waited {waited_s:.0f} s in {self.doing(self.rank)}, but "
            f"{whom} {verb} closed the model, or left the program; all ranks must make the same "
            f"calls"
        )

    def in_vain(self, crossing: Waiting, waited_s: float) -> tuple[str, bool]:
        """Return the message for a wait that timed out, and whether others know more.

        They do if the missing process waits too, because then the cause is farther on.
        """
        missing = crossing.missing()
        whom = " and ".join(self.names(rank) for rank in missing[:_MOST_TOLD]) or "nobody"
        line = (
            f"{self.names(self.rank)} waited {waited_s:.0f} s for {whom} in {crossing.label.text}"
        )
        told = [f"{self.names(r)} waits in {self.doing(r)}" for r in missing if self.doing(r)]
        if told:
            return "; ".join([line, *told[:_MOST_TOLD]]), len(told) == len(missing)
        if stopped := [self.names(rank) for rank in self.stopped() if rank in missing]:
            told_of = " and ".join(stopped[:_MOST_TOLD])
            return f"{line}; {told_of} {_verb(stopped)} stopped", False
        return f"{line}; did that rank end or stop?", not missing

    def standstill(self, waited_s: float) -> str:
        """Return which process waits where, if all processes of the run wait; else empty."""
        if not self.is_whole or not (self._counts & np.uint64(1)).all():
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


def _verb(names: Sequence[str]) -> str:
    """Return the verb for names; that of a rank may be ``chips (0, 0) to (0, 1)``."""
    return "is" if len(names) == 1 and not names[0].startswith("chips ") else "are"


def _state(pid: int) -> str:
    """Return the letter of a process's state; R if unknown."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0].decode()
    except (OSError, ValueError, IndexError):
        return "R"


def padded(text: str) -> bytes:
    """Return a text truncated or zero-padded to `TEXT_BYTES`."""
    cut = text.encode("utf-8", "replace")[:TEXT_BYTES].decode("utf-8", "ignore")
    return cut.encode().ljust(TEXT_BYTES, b"\0")


def text_of(line: bytes | memoryview) -> str:
    """Return the text of `padded` bytes."""
    return bytes(line).rstrip(b"\0").decode("utf-8", "replace")


def is_text(line: bytes) -> bool:
    """Return whether bytes are a `padded` text that is not empty, and not data."""
    text = bytes(line).rstrip(b"\0")
    try:
        return bool(text) and text.decode("utf-8").isprintable()
    except UnicodeDecodeError:
        return False
