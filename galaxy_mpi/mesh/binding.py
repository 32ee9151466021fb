"""What planes over several processes share: numbering of collectives, and where their data is.

The k-th collective that a chip binds on an axis is the k-th of every other chip. It uses slot
`slot_of(k)` of its group's memory, and all chips of the process cross it together. A subclass
defines how to cross.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from galaxy_mpi.arrays import Bytes
from galaxy_mpi.errors import ProgramError
from galaxy_mpi.mesh.collective import Collective, line_of, mismatch
from galaxy_mpi.mesh.mesh import Axis
from galaxy_mpi.mesh.placement import Placement
from galaxy_mpi.mesh.plane import (
    Boxes,
    Crossing,
    GroupRounds,
    Label,
    Round,
    RowHops,
    Table,
    TeamCrossing,
)
from galaxy_mpi.mesh.rounds import (
    InRounds,
    Labelled,
    RelayRows,
    begins_at_once,
    box,
    box_bytes,
    numbered,
    places_of,
    text_of_rounds,
)
from galaxy_mpi.mesh.team_memory import TeamMemory
from galaxy_mpi.mesh.waits import Waits, is_text, padded

__all__ = ["BoundPlane"]


class BoundPlane(ABC):
    """See `galaxy_mpi.mesh.plane.Plane`.

    Parameters
    ----------
    placement : Placement
    axis : Axis
    rank : int
        This process.
    memories : sequence of TeamMemory
        Of its teams on the axis, in the order in which all processes take them.
    waits : Waits
        What this process waits for.
    """

    shares_memory: bool

    def __init__(
        self,
        placement: Placement,
        axis: Axis,
        rank: int,
        memories: Sequence[TeamMemory],
        waits: Waits,
    ) -> None:
        self._placement, self.axis, self.rank, self.waits = placement, axis, rank, waits
        self.mesh, self.size = placement.mesh, placement.mesh.size(axis)
        self.chips = placement.chips(rank)
        self._memories = memories
        self._place: dict[int, tuple[TeamMemory, int, int]] = {}
        for memory in memories:
            for number, group in enumerate(memory.team.groups):
                for index, chip in enumerate(group):
                    self._place[chip] = memory, number, index
        self.begin()

    @property
    def bytes_per_chip(self) -> int:
        """A chip's share of the memory of all slots, in the largest team of the process."""
        return max((memory.bytes_per_chip for memory in self._memories), default=0)

    def begin(self) -> None:
        """Begin to bind a program."""
        self._next = dict.fromkeys(self.chips, 0)
        self._bound: dict[tuple[int, int], Collective] = {}
        self._crossings: dict[tuple[int, int], Crossing] = {}
        self._closing: list[Crossing] = []

    def table(self, rank: int, label: Label, n_bytes: int, *, in_parts: bool) -> Table:
        """Return the next collective of a chip as a table."""
        facts = f"table {n_bytes} {in_parts}"
        _, group, index = self._place[rank]
        collective = self._collective(rank, label, facts, n_bytes)
        if not collective.crossings:
            collective.crossings = [self._table_crossing(collective, in_parts=in_parts)]
        rows = collective.data(group, self.size * n_bytes).reshape(self.size, n_bytes)
        self._complete(collective, rank)
        return Table(rows[index], rows, self._crossing(collective, 0))

    def relay(
        self, rank: int, label: Label, n_bytes: int, rounds: Sequence[Sequence[RowHops]]
    ) -> Table:
        """Return the next collective of a chip as a table whose rows are passed on."""
        collective = self._collective(rank, label, f"relay {n_bytes} {rounds}", n_bytes)
        peers = tuple(tuple(hops.peers() for hops in of_member) for of_member in rounds)
        if not collective.crossings:
            collective.rounds = self._round_crossings(collective, peers)
            at_once = begins_at_once(peers)
            collective.crossings = [self._relay_crossing(collective, is_one_call=at_once)]
        memory, number, me = self._place[rank]
        group, places = memory.team.groups[number], places_of(peers)
        layout = RelayRows(self.size, n_bytes, len(places))
        slot = collective.data(number, layout.n_bytes)
        rows, labelled = layout.rows(slot), Labelled()
        for n, hops in enumerate(rounds[me]):
            crossing = collective.rounds[n]
            for peer, row in hops.sends:
                place, owner = places[n, me, peer, 0], self._placement.rank_of(group[peer])
                if owner != self.rank:
                    head = labelled.first("to", peer, layout.label(slot, place))
                    tag = self._tag(place, group)
                    crossing.send(owner, rank, head, rows[row], tag)
            for peer, row in hops.receives:
                place, owner = places[n, peer, me, 0], self._placement.rank_of(group[peer])
                if owner != self.rank:
                    head = labelled.first("from", peer, layout.label(slot, place))
                    tag = self._tag(place, group)
                    crossing.receive(owner, group[peer], rank, head, rows[row], tag)
        self._complete(collective, rank)
        return Table(rows[me], rows, self._crossing(collective, 0))

    def boxes(self, rank: int, label: Label, n_bytes: int, rounds: GroupRounds) -> Boxes:
        """Return the next collective of a chip as boxes."""
        facts = f"boxes {n_bytes} {text_of_rounds(rounds)}"
        collective = self._collective(rank, label, facts, n_bytes)
        if not collective.crossings:
            collective.crossings = collective.rounds = self._round_crossings(collective, rounds)
        boxes = self._boxes(collective, rank, rounds)
        self._complete(collective, rank)
        return Boxes(*boxes, [self._crossing(collective, n) for n in range(len(rounds[0]))])

    def end(self) -> object:
        """End the binding of a program; return what `release` gives back."""
        for number in {number for _, number in self._bound}:
            chips = [chip for chip in self._next if self._next[chip] <= number]
            if chips:
                raise ProgramError(f"chips {chips} have bound only a part of the program")
        if set(self._next.values()) == {1}:
            self._close()
        return list(self._bound.values())

    def _close(self) -> None:
        """Add a barrier, because a single collective would follow itself in the same slot."""
        for chip in self._next:
            memory = self._place[chip][0]
            before = self._bound[self._memories.index(memory), 0]
            label = Label(before.label.digest ^ 1, f"end of {before.label.text}")
            collective = self._collective(chip, label, "end", 0)
            if not collective.crossings:
                collective.crossings = [self._closing_crossing(collective)]
            self._complete(collective, chip)
            crossing = self._crossing(collective, 0)
            if crossing not in self._closing:
                self._closing.append(crossing)

    def closing(self) -> Sequence[Crossing]:
        """Return the crossings at the end of a program."""
        return self._closing

    def release(self, bound: object) -> None:
        """Release what a program bound; only memory, unless a subclass has requests."""
        return

    def _boxes(
        self, collective: Collective, rank: int, rounds: GroupRounds
    ) -> "tuple[list[list[Bytes]], list[list[Bytes]]]":
        """Return the fields of `Boxes` except the crossings, which are told who takes part."""
        memory, number, me = self._place[rank]
        group, n_bytes = memory.team.groups[number], collective.n_bytes
        places = places_of(rounds)
        slot = collective.data(number, box_bytes(n_bytes) * len(places))
        sends: list[list[Bytes]] = [[] for _ in rounds[me]]
        receives: list[list[Bytes]] = [[] for _ in rounds[me]]
        labelled = Labelled()
        for n, peers in enumerate(rounds[me]):
            crossing = collective.rounds[n]
            for k, peer in numbered(peers.sends):
                place, owner = places[n, me, peer, k], self._placement.rank_of(group[peer])
                data, head = box(slot, place, n_bytes)
                sends[n].append(data)
                if owner != self.rank:
                    first = labelled.first("to", (peer, k), head)
                    crossing.send(owner, rank, first, data, self._tag(place, group))
            for k, peer in numbered(peers.receives):
                place, owner = places[n, peer, me, k], self._placement.rank_of(group[peer])
                data, head = box(slot, place, n_bytes)
                receives[n].append(data)
                if owner != self.rank:
                    first, tag = labelled.first("from", (peer, k), head), self._tag(place, group)
                    crossing.receive(owner, group[peer], rank, first, data, tag)
        return sends, receives

    def _tag(self, place: int, group: Sequence[int]) -> int:
        """Return the number of a message; those of rows are the chips' ranks."""
        return self.mesh.n_chips * (1 + place) + group[0]

    @abstractmethod
    def _table_crossing(self, collective: Collective, *, in_parts: bool) -> TeamCrossing:
        """Return how a team crosses a table, with a method ``complete``."""

    @abstractmethod
    def _round_crossings(self, collective: Collective, rounds: GroupRounds) -> Sequence[Round]:
        """Return how a team crosses the rounds of boxes, each with a method ``complete``."""

    def _relay_crossing(self, collective: Collective, *, is_one_call: bool) -> TeamCrossing:
        """Return how a team crosses a relay whose rounds are known; they may be one call."""
        return InRounds(collective.label, collective.rounds)

    @abstractmethod
    def _closing_crossing(self, collective: Collective) -> TeamCrossing:
        """Return a barrier of a team, with a method ``complete``."""

    def _collective(self, rank: int, label: Label, facts: str, n_bytes: int) -> Collective:
        """Return the next collective of a chip; the first chip of the team here creates it."""
        number = self._next[rank]
        self._next[rank] = number + 1
        memory, group, _ = self._place[rank]
        key = self._memories.index(memory), number
        collective = self._bound.get(key)
        if collective is None:
            collective = self._bound[key] = Collective(number, label, n_bytes, memory)
        line = line_of(label, facts)
        if collective.n_bytes != n_bytes and not self.shares_memory:
            # Groups may differ, but those of one process send their messages together.
            first = collective.bound[0]
            its = collective.lines[self._place[first][1]]
            raise ProgramError(mismatch(self.mesh, rank, line, first, its))
        other = collective.lines.setdefault(group, line)
        if other != line:
            first = next(c for c in collective.bound if self._place[c][1] == group)
            raise ProgramError(mismatch(self.mesh, rank, line, first, other))
        return collective

    def _complete(self, collective: Collective, chip: int) -> None:
        """Count a chip that has bound; after the last one, the crossings know all labels."""
        collective.bound.append(chip)
        mine = [c for c in self.chips if c in collective.memory.chips]
        if len(collective.bound) == len(mine):
            for crossing in collective.crossings:
                crossing.complete(mine)

    def _crossing(self, collective: Collective, round_number: int) -> Crossing:
        """Return the crossing of this process: all its teams, one after the other."""
        if len(self._memories) == 1:
            return collective.crossings[round_number]
        key = collective.number, round_number
        crossing = self._crossings.setdefault(key, _InOrder(collective.label))
        assert isinstance(crossing, _InOrder)
        crossing.add(self._memories.index(collective.memory), collective.crossings[round_number])
        return crossing

    def disagreement(self, chip: int, right: bytes, line: bytes) -> ProgramError:
        """Return the error for a chip with a different label than its group."""
        self.waits.has_disagreed = True
        own = next(c for c in self.chips if chip in self.mesh.group(c, self.axis))
        # An old label, or data: in memory, the other process may have written its label elsewhere.
        has_text = is_text(line[8:])
        if self.shares_memory or line[8:] == right[8:] or not has_text:
            text = self.waits.last(self._placement.rank_of(chip))
            if text or not has_text:  # nothing is known of a process of another host
                line = line[:8] + padded(text or "another collective")
        about = f"{self.waits.about}: " if self.waits.about else ""
        return ProgramError(about + mismatch(self.mesh, own, right, chip, line))

    def group_of(self, chip: int) -> int:
        """Return the number of a chip's group in its team."""
        return self._place[chip][1]


class _InOrder:
    """The crossings of several teams: every process of the run takes teams in the same order."""

    def __init__(self, label: Label) -> None:
        self.label = label
        self._crossings: dict[int, Crossing] = {}
        self._calls: tuple[Crossing, ...] = ()

    def add(self, number: int, crossing: Crossing) -> None:
        """Cross another team too, by its number."""
        self._crossings[number] = crossing
        self._calls = tuple(self._crossings[n] for n in sorted(self._crossings))

    def __call__(self) -> None:
        """Return when all teams have crossed."""
        for cross in self._calls:
            cross()
