"""Groups whose processes are all on this host: rows and boxes are read where they were written.

As the chips write into a remote L1 and raise a semaphore, a chip here writes into memory that the
receiver maps too. A table is crossed with one barrier of the processes that share the groups,
however many groups and chips those are. A round of boxes is crossed with one notice to each
process that boxes go to, and one from each that they come from.

Before it meets, a process writes the labels of its chips beside the data. Behind the barrier it
compares everybody's with what they must be: one comparison of bytes.

Boxes have their label in front. A place is written again and again, by the same collective too, so
the digest has the number of the notice added to it: an old label is not taken for a new one.
"""

from collections.abc import Sequence
from typing import Any

from galaxy_mpi.errors import CollectiveError
from galaxy_mpi.mesh.barrier import Notice
from galaxy_mpi.mesh.binding import (
    BoundPlane,
    Collective,
    box,
    box_bytes,
    mismatch,
    numbered,
    places_of,
    spreads,
    whole_lines,
)
from galaxy_mpi.mesh.mesh import Axis
from galaxy_mpi.mesh.placement import Placement
from galaxy_mpi.mesh.plane import Label, Relay, RoundPeers, RowHops
from galaxy_mpi.mesh.team_memory import TeamMemory
from galaxy_mpi.mesh.waits import LINE_BYTES, Waits

__all__ = ["BarrierCrossing", "SharedPlane", "describe"]

_DIGESTS = (1 << 64) - 1


class BarrierCrossing:
    """Where the processes of a team on this host meet, and compare their labels."""

    def __init__(self, plane: "SharedPlane", collective: Collective, waits: Waits) -> None:
        self.label, self._plane, self._collective = collective.label, plane, collective
        memory = self._memory = collective.memory
        self._waits, self._count, self._tell = waits, waits.count, waits.text
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

    def describe(self, waited_s: float) -> str:
        """Return who waits for whom."""
        memory = self._memory
        return describe(self._plane, self, memory.missing(memory.turn), self._waits, waited_s)

    def _complain(self, lines: bytes) -> None:
        """Raise the error that names a chip with another label, and one of this process."""
        plane, chips = self._plane, self._memory.chips
        for place, chip in enumerate(chips):
            span = slice(place * LINE_BYTES, (place + 1) * LINE_BYTES)
            if lines[span] != self._all[span]:
                group = self._plane.group_of(chip)
                own = next(c for c in plane.chips if c in chips and plane.group_of(c) == group)
                raise CollectiveError(mismatch(plane.mesh, own, self._all[span], chip, lines[span]))


class _Alone:
    """A crossing of a team that is one process: nobody to wait for."""

    def __init__(self, collective: Collective) -> None:
        self.label = collective.label

    def complete(self, mine: Sequence[int]) -> None:
        """Do nothing."""

    def __call__(self) -> None:
        """Do nothing: the runner has let every chip do what comes before."""


class Notices:
    """How many notices this process has posted to others and taken from them, and with what."""

    def __init__(self, memory: TeamMemory) -> None:
        others = [rank for rank in memory.ranks if rank != memory.rank]
        self.posts = {other: _Counted(memory.notice(memory.rank, other)) for other in others}
        self.takes = {other: _Counted(memory.notice(other, memory.rank)) for other in others}


class _Counted:
    """One direction between two processes."""

    def __init__(self, notice: Notice) -> None:
        self.post, self.wait, self.n = notice.post, notice.wait, 0


class NoticeCrossing:
    """A round of boxes: notices to those who receive, then from those who send."""

    def __init__(
        self, plane: "SharedPlane", collective: Collective, waits: Waits, notices: Notices
    ) -> None:
        self.label, self._plane, self._collective = collective.label, plane, collective
        self._waits, self._count, self._tell = waits, waits.count, waits.text
        self._notices = notices
        self._sends: dict[int, list[Any]] = {}
        self._receives: dict[int, list[Any]] = {}
        self._to: list[tuple[_Counted, list[Any]]] = []
        self._from: list[tuple[_Counted, list[Any]]] = []
        self._awaited: list[int] = []
        self._text, self._digest = b"", 0

    def send(self, rank: int, chip: int, header: Any) -> None:
        """Add a box of a chip of this process to a chip of process ``rank``."""
        self._sends.setdefault(rank, []).append((chip, header))

    def receive(self, rank: int, sender: int, chip: int, header: Any) -> None:
        """Add a box of a chip of process ``rank`` to one of this process."""
        self._receives.setdefault(rank, []).append((sender, chip, header))

    def complete(self, mine: Sequence[int]) -> None:
        """Take the labels: every chip of this process has bound."""
        lines, group_of = self._collective.lines, self._plane.group_of
        self._text = next(iter(lines.values()))[8 : 8 + len(self._tell)]
        for rank, sends in self._sends.items():
            boxes: list[Any] = []
            for chip, header in sends:
                view, line = memoryview(header), lines[group_of(chip)]
                digest = int.from_bytes(line[:8], "little")
                boxes.append((view[:8].cast("Q"), digest, view[8:], line[8:]))
            self._to.append((self._notices.posts[rank], boxes))
        for rank, receives in self._receives.items():
            boxes = []
            for sender, chip, header in receives:
                line = lines[group_of(chip)]
                digest = int.from_bytes(line[:8], "little")
                boxes.append((memoryview(header)[:8].cast("Q"), digest, sender, chip, line, header))
            self._from.append((self._notices.takes[rank], boxes))
            self._awaited.append(rank)

    def __call__(self) -> None:
        """Return when all boxes of the round are there."""
        for way, sends in self._to:
            number = way.n = way.n + 1
            for place, digest, text_place, text in sends:
                text_place[:] = text
                place[0] = digest + number & _DIGESTS
            way.post()
        if not self._from:
            return
        count = self._count
        self._waits.crossing = self
        self._tell[:] = self._text
        count[0] += 1
        for way, _ in self._from:
            way.wait()
        count[0] += 1
        for way, receives in self._from:
            number = way.n = way.n + 1
            for received in receives:
                if received[0][0] != received[1] + number & _DIGESTS:
                    self._complain(*received[2:])

    def describe(self, waited_s: float) -> str:
        """Return who waits for whom."""
        return describe(self._plane, self, self._awaited, self._waits, waited_s)

    def _complain(self, sender: int, chip: int, line: bytes, header: Any) -> None:
        text = mismatch(self._plane.mesh, chip, line, sender, bytes(header))
        raise CollectiveError(text)


class _Then:
    """A crossing with a barrier behind it, because not everybody has heard of everybody."""

    def __init__(self, first: Any, barrier: Any) -> None:
        self.label, self._first, self._barrier = first.label, first, barrier
        self.send, self.receive = first.send, first.receive

    def complete(self, mine: Sequence[int]) -> None:
        self._first.complete(mine)
        self._barrier.complete(mine)

    def __call__(self) -> None:
        self._first()
        self._barrier()


class SharedPlane(BoundPlane):
    """See `galaxy_mpi.mesh.plane.Plane`.

    Parameters
    ----------
    placement, axis, rank, memories
        As for `BoundPlane`; every team is whole on this host.
    waits : Waits
    """

    shares_memory = True

    def __init__(
        self,
        placement: Placement,
        axis: Axis,
        rank: int,
        memories: Sequence[TeamMemory],
        waits: Waits,
    ) -> None:
        super().__init__(placement, axis, rank, memories)
        self.mesh, self.chips, self.waits = placement.mesh, placement.chips(rank), waits
        self._notices = {memory.team: Notices(memory) for memory in memories}

    def relay(
        self, rank: int, label: Label, n_bytes: int, rounds: Sequence[Sequence[RowHops]]
    ) -> Relay:
        """Return the next collective of a chip as a table whose rows stay where they are.

        Behind the rows there is a place for the label of every notice.
        """
        collective = self._collective(rank, label, f"relay {n_bytes} {rounds}", n_bytes)
        peers = [[hops.peers() for hops in of_member] for of_member in rounds]
        if not collective.crossings:
            collective.crossings = self._round_crossings(collective, peers)
        memory, number, me = self._place[rank]
        places, first = places_of(peers), whole_lines(self.size * n_bytes)
        end = first + LINE_BYTES * len(places)
        slot = memory.slot(number, collective.slot, end)
        headers = slot[first:end].reshape(-1, LINE_BYTES)
        rows = slot[: self.size * n_bytes].reshape(self.size, n_bytes)
        group, rank_of = memory.team.groups[number], self._placement.rank_of
        for n, of_round in enumerate(peers[me]):
            crossing = collective.crossings[n]
            for peer in of_round.sends:
                if rank_of(group[peer]) != self.rank:
                    header = headers[places[n, me, peer, 0]]
                    crossing.send(rank_of(group[peer]), rank, header)
            for peer in of_round.receives:
                if rank_of(group[peer]) != self.rank:
                    header = headers[places[n, peer, me, 0]]
                    crossing.receive(rank_of(group[peer]), group[peer], rank, header)
        self._complete(collective, rank)
        crossings = [self._crossing(collective, n) for n in range(len(rounds[0]))]
        return Relay(rows[me], rows, memory.times[collective.slot, number], crossings)

    def _table_crossing(self, collective: Collective, *, in_parts: bool) -> Any:
        return self._barrier_crossing(collective)

    def _closing_crossing(self, collective: Collective) -> Any:
        return self._barrier_crossing(collective)

    def _barrier_crossing(self, collective: Collective) -> Any:
        if len(collective.memory.ranks) == 1:
            return _Alone(collective)
        return BarrierCrossing(self, collective, self.waits)

    def _round_crossings(
        self, collective: Collective, rounds: Sequence[Sequence[RoundPeers]]
    ) -> list[Any]:
        notices = self._notices[collective.memory.team]
        crossings: list[Any] = [
            NoticeCrossing(self, collective, self.waits, notices) for _ in rounds[0]
        ]
        if not spreads(rounds):
            crossings[-1] = _Then(crossings[-1], self._barrier_crossing(collective))
        return crossings

    def _boxes(
        self, collective: Collective, rank: int, rounds: Sequence[Sequence[RoundPeers]]
    ) -> tuple[Any, Any, Any, Any]:
        memory, number, me = self._place[rank]
        group, rank_of = memory.team.groups[number], self._placement.rank_of
        places, n_bytes = places_of(rounds), collective.n_bytes
        slot = memory.slot(number, collective.slot, box_bytes(n_bytes, self.size) * len(places))
        sends: list[list[Any]] = []
        receives: list[list[Any]] = []
        for n, peers in enumerate(rounds[me]):
            crossing = collective.crossings[n]
            sends.append([])
            receives.append([])
            for k, peer in numbered(peers.sends):
                data, times, header = box(slot, places[n, me, peer, k], n_bytes, self.size)
                sends[-1].append((data, times))
                if rank_of(group[peer]) != self.rank:
                    crossing.send(rank_of(group[peer]), rank, header)
            for k, peer in numbered(peers.receives):
                data, times, header = box(slot, places[n, peer, me, k], n_bytes, self.size)
                receives[-1].append((data, times))
                if rank_of(group[peer]) != self.rank:
                    crossing.receive(rank_of(group[peer]), group[peer], rank, header)
        return (
            [[data for data, _ in of_round] for of_round in sends],
            [[data for data, _ in of_round] for of_round in receives],
            [[times for _, times in of_round] for of_round in sends],
            [[times for _, times in of_round] for of_round in receives],
        )


def describe(
    plane: Any, crossing: Any, missing: Sequence[int], waits: Waits, waited_s: float
) -> str:
    """Return the line of a process that waited in vain.

    Parameters
    ----------
    plane : BoundPlane
    crossing : Crossing
    missing : sequence of int
        The processes that have not come.
    waits : Waits
        Says what they wait for instead.
    waited_s : float
    """
    names = " and ".join(plane.names(rank) for rank in missing) or "nobody"
    line = f"{plane.names(plane.rank)} waited {waited_s:.0f} s for {names} in {crossing.label.text}"
    doing = {rank: waits.doing(rank) for rank in missing}
    told = [f"{plane.names(rank)} waits in {text}" for rank, text in doing.items() if text]
    return "; ".join([line, *told]) if told else f"{line}; did that rank end or stop?"
