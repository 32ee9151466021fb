"""Where processes of a host meet: at a barrier for a table, by notices for a round of boxes.

Before it meets, a process writes the labels of its chips beside the data. Behind the barrier it
compares everybody's with what they must be: one comparison of bytes, always.

Boxes have their label in front: the first from a process to another in a collective, those behind
it are of the same. A box is written again and again, by the same collective too, so the digest has
the number of the notice added to it: an old label is not taken for a new one.
"""

from collections.abc import Sequence
from typing import Any

from galaxy_mpi.arrays import Bytes
from galaxy_mpi.mesh.barrier import MOST_POSTS, Notice
from galaxy_mpi.mesh.binding import BoundPlane, Collective
from galaxy_mpi.mesh.team_memory import TeamMemory
from galaxy_mpi.mesh.waits import LINE_BYTES

__all__ = ["BarrierCrossing", "NoticeCrossing", "Notices", "Then", "barrier_crossing"]

_DIGESTS = (1 << 64) - 1


class BarrierCrossing:
    """Where the processes of a team on this host meet, and compare their labels."""

    def __init__(self, plane: BoundPlane, collective: Collective) -> None:
        self.label, self._plane, self._collective = collective.label, plane, collective
        memory, waits = collective.memory, plane.waits
        self._memory, self._waits = memory, waits
        self._count, self._tell = waits.count, waits.text
        self._place, self._came = memory.place, memory.came
        self._wait, self._barrier = memory.barrier.wait_at, memory.barrier.place
        self._labels = tuple(zip(memory.my_labels, memory.labels, strict=True))
        self._mine = self._all = self._text = b""

    def complete(self, mine: Sequence[int]) -> None:
        """Take the labels of all groups: every chip of this process has bound."""
        lines, group_of = self._collective.lines, self._plane.group_of
        self._mine = b"".join(lines[group_of(chip)] for chip in mine)
        self._all = b"".join(lines[group_of(chip)] for chip in self._memory.chips)
        self._text = self._mine[8 : 8 + len(self._tell)]

    def __call__(self) -> None:
        """Return when all have come; see `galaxy_mpi.mesh.plane.Crossing`."""
        memory, count = self._memory, self._count
        turn = memory.turn = memory.turn + 1
        mine, everybody = self._labels[turn & 1]
        mine[:] = self._mine
        self._came[self._place] = turn
        self._waits.crossing = self
        self._tell[:] = self._text
        count[0] += 1
        self._wait(self._barrier)
        count[0] += 1
        if everybody.tobytes() != self._all:
            self._complain(everybody.tobytes())

    def missing(self) -> list[int]:
        """Return the processes that have not come."""
        return self._memory.missing(self._memory.turn)

    def _complain(self, lines: bytes) -> None:
        """Raise the error that names a chip with another label, and one of this process."""
        for place, chip in enumerate(self._memory.chips):
            span = slice(place * LINE_BYTES, (place + 1) * LINE_BYTES)
            if lines[span] != self._all[span]:
                raise self._plane.disagreement(chip, self._all[span], lines[span])


class Alone:
    """A crossing of a team that is one process here: nobody to wait for."""

    def __init__(self, collective: Collective) -> None:
        self.label = collective.label

    def complete(self, mine: Sequence[int]) -> None:
        """Do nothing."""

    def __call__(self) -> None:
        """Do nothing: the runner has let every chip do what comes before."""


def barrier_crossing(plane: BoundPlane, collective: Collective) -> BarrierCrossing | Alone:
    """Return where a team's processes on this host meet."""
    if len(collective.memory.ranks) == 1:
        return Alone(collective)
    return BarrierCrossing(plane, collective)


class Notices:
    """What this process tells others of the host, and hears from them.

    A process that has several rounds to tell posts them together, when it has nothing else to do:
    a post that wakes a sleeper is a system call, and what has come meanwhile needs no other.

    Parameters
    ----------
    memory : TeamMemory
    held : list
        Ways with something to tell, of all teams of the process: it waits in one team at a time.
    """

    def __init__(self, memory: TeamMemory, held: "list[_Posts]") -> None:
        others = [rank for rank in memory.ranks if rank != memory.rank]
        self.posts = {other: _Posts(memory.notice(memory.rank, other)) for other in others}
        self.takes = {other: _Takes(memory.notice(other, memory.rank)) for other in others}
        # A process is ahead of another by the rounds of two collectives at most.
        self.is_patient = 2 * len(memory.team.groups[0]) <= MOST_POSTS
        self._held = held

    def tell(self, way: "_Posts") -> None:
        """Note a round that is to be told."""
        if not way.n_held:
            self._held.append(way)
        way.n_held += 1
        if not self.is_patient:
            self.flush()

    def flush(self) -> None:
        """Tell what is held back: before this process waits, and behind the last round."""
        for way in self._held:
            way.flush()
        self._held.clear()


class _Posts:
    """From this process to another."""

    def __init__(self, notice: Notice) -> None:
        self._post, self._numbers = notice.post, notice.numbers
        self.n = self.n_held = self._next = 0

    def flush(self) -> None:
        """Post the rounds that are held back."""
        place = self._next
        self._numbers[place] = self.n_held
        self._next = (place + 1) % MOST_POSTS
        self.n_held = 0
        self._post()


class _Takes:
    """From another process to this one."""

    def __init__(self, notice: Notice) -> None:
        self.try_take, self._wait, self._numbers = notice.try_take, notice.wait, notice.numbers
        self.n = self.n_known = self._next = 0

    def taken(self) -> None:
        """Note what the post stands for that has been taken; one round of it is used."""
        place = self._next
        self.n_known = self._numbers[place] - 1
        self._next = (place + 1) % MOST_POSTS

    def wait(self) -> None:
        """Return when there is another post, and it has been taken."""
        self._wait()
        self.taken()


class NoticeCrossing:
    """A round of boxes: notices to those who receive, then from those who send."""

    def __init__(
        self, plane: BoundPlane, collective: Collective, notices: Notices, *, is_last: bool
    ) -> None:
        self.label, self._plane, self._collective = collective.label, plane, collective
        self._is_last = is_last
        waits = self._waits = plane.waits
        self._count, self._tell = waits.count, waits.text
        self._notices = notices
        self._sends: dict[int, list[Any]] = {}
        self._receives: dict[int, list[Any]] = {}
        self._to: list[tuple[_Posts, tuple[Any, ...]]] = []
        self._from: list[tuple[_Takes, tuple[Any, ...]]] = []
        self._text, self._n_taken = b"", 0

    def sends_to(self, rank: int) -> bool:
        """Return whether data goes to a process as messages: to none."""
        return False

    def send(self, rank: int, chip: int, piece: Bytes, tag: int) -> None:
        """Add a box of a chip of this process to a chip of process ``rank``."""
        self._sends.setdefault(rank, []).append((chip, piece[:LINE_BYTES]))

    def receive(self, rank: int, sender: int, chip: int, piece: Bytes, tag: int) -> None:
        """Add a box of a chip of process ``rank`` to one of this process."""
        self._receives.setdefault(rank, []).append((sender, chip, piece[:LINE_BYTES]))

    def complete(self, mine: Sequence[int]) -> None:
        """Take the labels: every chip of this process has bound."""
        lines, group_of = self._collective.lines, self._plane.group_of
        is_first = self._collective.is_first
        self._text = next(iter(lines.values()))[8 : 8 + len(self._tell)]
        for rank, sends in self._sends.items():
            out: list[Any] = []
            for chip, header in sends if is_first("to", rank) else ():
                view, line = header.data, lines[group_of(chip)]
                out.append((view[:8].cast("Q"), digest_of(line), view[8:], line[8:]))
            self._to.append((self._notices.posts[rank], tuple(out)))
        for rank, receives in self._receives.items():
            got: list[Any] = []
            for sender, chip, header in receives if is_first("from", rank) else ():
                line = lines[group_of(chip)]
                place = header.data[:8].cast("Q")
                got.append((place, digest_of(line), sender, line, header))
            self._from.append((self._notices.takes[rank], tuple(got)))

    def __call__(self) -> None:
        """Return when all boxes of the round are there."""
        self._tell_others()
        self.finish()
        if self._is_last:
            self._notices.flush()

    def start(self) -> None:
        """Tell the others at once that their boxes are full: this process waits elsewhere."""
        self._tell_others()
        self._notices.flush()

    def _tell_others(self) -> None:
        for way, sends in self._to:
            way.n += 1
            if sends:
                # Who finds another label says what this process is in.
                self._tell[:] = self._text
            for place, digest, text_place, text in sends:
                text_place[:] = text
                place[0] = digest + way.n & _DIGESTS
            self._notices.tell(way)

    def finish(self) -> None:
        """Return when the others have told this process the same."""
        for taken, (way, receives) in enumerate(self._from):
            way.n += 1
            if way.n_known:
                way.n_known -= 1
            elif way.try_take():
                self._sleep(way, taken)
            else:
                way.taken()
            for place, digest, sender, line, header in receives:
                if place[0] != digest + way.n & _DIGESTS:
                    self._notices.flush()  # so that the other does not wait, but finds the same
                    raise self._plane.disagreement(sender, line, bytes(header))

    def _sleep(self, way: _Takes, n_taken: int) -> None:
        """Wait for one that has not been posted, and say so."""
        self._notices.flush()
        count = self._count
        self._n_taken = n_taken
        self._waits.crossing = self
        self._tell[:] = self._text
        count[0] += 1
        way.wait()
        count[0] += 1

    def missing(self) -> list[int]:
        """Return the processes whose notices have not been taken."""
        return list(self._receives)[self._n_taken :]


class Then:
    """A crossing with a barrier of the host behind it."""

    def __init__(self, first: Any, barrier: BarrierCrossing | Alone) -> None:
        self.label, self._first, self._barrier = first.label, first, barrier

    def sends_to(self, rank: int) -> bool:
        """Return whether data goes to a process as messages."""
        return bool(self._first.sends_to(rank))

    def send(self, rank: int, chip: int, piece: Bytes, tag: int) -> None:
        """Add a box to the first, see `NoticeCrossing`."""
        self._first.send(rank, chip, piece, tag)

    def receive(self, rank: int, sender: int, chip: int, piece: Bytes, tag: int) -> None:
        """Add a box to the first, see `NoticeCrossing`."""
        self._first.receive(rank, sender, chip, piece, tag)

    def complete(self, mine: Sequence[int]) -> None:
        """Complete both."""
        self._first.complete(mine)
        self._barrier.complete(mine)

    def __call__(self) -> None:
        """Cross both."""
        self._first()
        self._barrier()


def digest_of(line: bytes) -> int:
    """Return the number in front of a label."""
    return int.from_bytes(line[:8], "little")
