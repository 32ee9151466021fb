"""Signals between the processes of a host, for collectives that go hop by hop in rounds of boxes.

Of the boxes from one process to another in a collective, the first has the label in front. A box is
written again and again, also by the same collective, so the number of the signal is added to the
digest. An old label is therefore never taken for a new one.
"""

import time
from collections.abc import Callable, Sequence

from galaxy_mpi.arrays import Bytes
from galaxy_mpi.mesh.barrier import MOST_POSTS, Signal
from galaxy_mpi.mesh.binding import BoundPlane
from galaxy_mpi.mesh.collective import Collective
from galaxy_mpi.mesh.team_memory import TeamMemory
from galaxy_mpi.mesh.waits import Waiting

__all__ = ["Posts", "Received", "Sent", "SignalCrossing", "Signals", "Takes"]

_DIGESTS = (1 << 64) - 1

Sent = tuple[memoryview, int, memoryview, bytes]
"""Of a label: where its digest goes, the digest, where its text goes, the text."""

Received = tuple[memoryview, int, int, bytes, Bytes]
"""Where a digest arrives, the right one, the sender, the right label, and where that arrives."""


class Signals:
    """Signals between this process and others of the host.

    A process posts several finished rounds together, when it has nothing else to do: a post that
    wakes another process is a system call, and rounds that finish meanwhile need no further one.

    Parameters
    ----------
    memory : TeamMemory
    held : list
        Signals still to post, of all teams of the process, because it waits in one team at a time.
    """

    def __init__(self, memory: TeamMemory, held: "list[Posts]") -> None:
        others = [rank for rank in memory.ranks if rank != memory.rank]
        self.posts = {other: Posts(memory.signal(memory.rank, other)) for other in others}
        self.takes = {other: Takes(memory.signal(other, memory.rank)) for other in others}
        # A process is at most two collectives ahead of another.
        self.is_patient = 2 * len(memory.team.groups[0]) <= MOST_POSTS
        self.held = held

    def tell(self, way: "Posts", n_rounds: int = 1) -> None:
        """Note finished rounds, to be posted later."""
        if not way.n_held:
            self.held.append(way)
        way.n_held += n_rounds
        if not self.is_patient:
            self.flush()

    def flush(self) -> None:
        """Post what is held back: before this process waits, and after the last round."""
        for way in self.held:
            way.flush()
        self.held.clear()


class Posts:
    """From this process to another."""

    def __init__(self, signal: Signal) -> None:
        self.post, self.numbers = signal.post, signal.numbers
        self.n = self.n_held = self.next = 0

    def flush(self) -> None:
        """Post the rounds that are held back."""
        place = self.next
        self.numbers[place] = self.n_held
        self.next = (place + 1) % MOST_POSTS
        self.n_held = 0
        self.post()


class Takes:
    """From another process to this one."""

    def __init__(self, signal: Signal) -> None:
        self.take, self.numbers = signal.take, signal.numbers
        self.n = self.n_known = self.next = 0

    def read(self) -> int:
        """Note and return the rounds of a post that was taken."""
        place = self.next
        n = self.n_known = self.numbers[place]
        self.next = (place + 1) % MOST_POSTS
        return n

    def taken(self) -> None:
        """Note the rounds of a post that was taken, and use one of them."""
        self.n_known = self.read() - 1


class SignalCrossing:
    """A round of boxes: signals to the receivers, then from the senders."""

    def __init__(
        self, plane: BoundPlane, collective: Collective, signals: Signals, *, is_last: bool
    ) -> None:
        self.label, self._plane, self._collective = collective.label, plane, collective
        self._is_last = is_last
        waits = self._waits = plane.waits
        self._count, self._tell = waits.count, waits.text
        self._signals = signals
        self._sends: dict[int, list[tuple[int, Bytes | None]]] = {}
        self._receives: dict[int, list[tuple[int, int, Bytes | None]]] = {}
        self.to: list[tuple[Posts, tuple[Sent, ...]]] = []
        self.come: list[tuple[Takes, tuple[Received, ...]]] = []
        self.text, self._n_taken = b"", 0

    def send(self, rank: int, chip: int, head: Bytes | None, data: Bytes, tag: int) -> None:
        """Add a box of a chip of this process to a chip of process ``rank``."""
        self._sends.setdefault(rank, []).append((chip, head))

    def receive(
        self, rank: int, sender: int, chip: int, head: Bytes | None, data: Bytes, tag: int
    ) -> None:
        """Add a box of a chip of process ``rank`` to one of this process."""
        self._receives.setdefault(rank, []).append((sender, chip, head))

    def complete(self, mine: Sequence[int]) -> None:
        """Collect the labels, once every chip of this process has bound."""
        lines, group_of = self._collective.lines, self._plane.group_of
        is_first = self._collective.is_first
        self.text = next(iter(lines.values()))[8 : 8 + len(self._tell)]
        for rank, sends in self._sends.items():
            out: list[Sent] = []
            for chip, header in sends if is_first("to", rank) else ():
                assert header is not None, "the first box to a process has a label"
                view, line = header.data, lines[group_of(chip)]
                out.append((view[:8].cast("Q"), digest_of(line), view[8:], line[8:]))
            self.to.append((self._signals.posts[rank], tuple(out)))
        for rank, receives in self._receives.items():
            got: list[Received] = []
            for sender, chip, header in receives if is_first("from", rank) else ():
                assert header is not None, "the first box from a process has a label"
                line = lines[group_of(chip)]
                place = header.data[:8].cast("Q")
                got.append((place, digest_of(line), sender, line, header))
            self.come.append((self._signals.takes[rank], tuple(got)))

    def timed(self, spent_s: list[float]) -> tuple[Callable[..., None], tuple[object, ...]]:
        """Return a call that crosses, and adds its seconds to the only element of ``spent_s``."""
        ways = tuple(self.to), tuple(self.come)
        line = self._tell, self.text
        return _cross_round, (self, self._signals, *ways, *line, self._is_last, spent_s)

    def __call__(self) -> None:
        """Return when all boxes of the round have arrived."""
        cross, arguments = self.timed([0.0])
        cross(*arguments)

    def start(self) -> None:
        """Signal at once that boxes are full, because this process waits elsewhere."""
        self._tell_others()
        self._signals.flush()

    def _tell_others(self) -> None:
        for way, sends in self.to:
            way.n += 1
            if sends:
                # A process that finds a different label reports what this process is in.
                self._tell[:] = self.text
            for place, digest, text_place, text in sends:
                text_place[:] = text
                place[0] = digest + way.n & _DIGESTS
            self._signals.tell(way)

    def finish(self) -> None:
        """Return when the others have signalled the same."""
        for taken, (way, receives) in enumerate(self.come):
            way.n += 1
            if way.n_known:
                way.n_known -= 1
            else:
                if not way.take(False):
                    self.sleep(way, self, taken)
                way.taken()
            if receives:
                self.check(way, receives)

    def check(self, way: Takes, receives: tuple[Received, ...]) -> None:
        """Raise an error if a label differs."""
        for place, digest, sender, line, header in receives:
            if place[0] != digest + way.n & _DIGESTS:
                self._signals.flush()  # so that the other finds the mismatch instead of waiting
                raise self._plane.disagreement(sender, line, bytes(header))

    def sleep(self, way: Takes, crossing: Waiting, n_taken: int = 0) -> None:
        """Wait for a signal that has not been posted yet, and record the wait."""
        self._signals.flush()
        count = self._count
        self._n_taken = n_taken
        self._waits.crossing = crossing
        self._tell[:] = self.text
        count[0] += 1
        way.take()
        count[0] += 1

    def missing(self) -> list[int]:
        """Return the processes whose signals have not arrived."""
        return list(self._receives)[self._n_taken :]


def _cross_round(
    crossing: SignalCrossing,
    signals: Signals,
    to: tuple[tuple[Posts, tuple[Sent, ...]], ...],
    come: tuple[tuple[Takes, tuple[Received, ...]], ...],
    tell: memoryview,
    own_text: bytes,
    is_last: bool,
    spent_s: list[float],
) -> None:
    """Cross a round. All it needs are arguments, as in `galaxy_mpi.mesh.crossing`."""
    began = time.perf_counter()
    for post, sends in to:
        n = post.n = post.n + 1
        if sends:
            tell[:] = own_text
            for place, digest, text_place, text in sends:
                text_place[:] = text
                place[0] = digest + n & _DIGESTS
        signals.tell(post)
    for n_taken, (take, receives) in enumerate(come):
        take.n += 1
        if take.n_known:
            take.n_known -= 1
        else:
            if not take.take(False):
                crossing.sleep(take, crossing, n_taken)
            take.n_known = take.read() - 1
        if receives:
            crossing.check(take, receives)
    if is_last:
        signals.flush()
    spent_s[0] += time.perf_counter() - began


def digest_of(line: bytes) -> int:
    """Return the number stored in front of a label."""
    return int.from_bytes(line[:8], "little")
