"""Groups whose processes share no memory: rows and boxes are sent as messages.

A row, or the part of it that the other process reads, is one message: label, data. So is a
box, as it is stored. The receiver compares the label with its own. A message
that is larger than its buffer is the same kind of error, because its label must differ.

The same code serves several hosts (`galaxy_mpi.mesh.mixed_plane`): there the processes of a team on
one host are a *unit*, and one of them receives a row for all of them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from galaxy_mpi.arrays import Bytes
from galaxy_mpi.errors import CollectiveError
from galaxy_mpi.mesh.binding import BoundPlane
from galaxy_mpi.mesh.collective import Collective
from galaxy_mpi.mesh.mesh import Axis
from galaxy_mpi.mesh.message_requests import Message, MessageRequests, RequestCache, place_of
from galaxy_mpi.mesh.placement import Placement, Team
from galaxy_mpi.mesh.plane import TEXT_BYTES, Round, RoundPeers, TeamCrossing
from galaxy_mpi.mesh.team_memory import TeamMemory
from galaxy_mpi.mesh.waits import LINE_BYTES, Waits

__all__ = ["BoxMessages", "MessagePlane", "RowMessages"]

_SENT_LINE_BYTES = 8 + TEXT_BYTES


class RowMessages:
    """The messages of a table's crossing."""

    def __init__(self, plane: "MessagePlane", collective: Collective, *, in_parts: bool) -> None:
        self.label, self._plane, self._collective = collective.label, plane, collective
        self._in_parts = in_parts
        self._waits, self._count, self._tell = plane.waits, plane.waits.count, plane.waits.text
        self._before = self._behind = self._text = b""

    def complete(self, mine: Sequence[int]) -> None:
        """Create the requests, once every chip of this process has bound."""
        plane, collective = self._plane, self._collective
        messages, received, kept = plane.row_messages(collective, in_parts=self._in_parts)
        self._requests = plane.use(collective, [messages], kept)
        self._lines: memoryview = kept[0].data.cast("B")
        before, behind = [], []
        for chip in collective.memory.team.chips:
            line = collective.lines[plane.group_of(chip)][:_SENT_LINE_BYTES]
            before.append(line if chip in mine else b"")
            behind.append(line if chip in mine or chip in received else b"")
        # Labels that are not received stay empty.
        self._before = b"".join(line.ljust(LINE_BYTES, b"\0") for line in before)
        self._behind = b"".join(line.ljust(LINE_BYTES, b"\0") for line in behind)
        self._text = next(iter(collective.lines.values()))[8:_SENT_LINE_BYTES]

    def __call__(self) -> None:
        """Return when all rows have arrived."""
        count, requests, lines = self._count, self._requests, self._lines
        lines[:] = self._before
        self._waits.crossing = self
        self._tell[:] = self._text
        count[0] += 1
        requests.start(0)
        fitted = requests.finish(0)
        count[0] += 1
        if not fitted or lines.tobytes() != self._behind:
            self._complain(lines.tobytes())

    def missing(self) -> list[int]:
        """Return the processes whose rows have not arrived."""
        wrong = self._wrong(self._lines.tobytes())
        return sorted({self._plane.owner(c) for c, _, line in wrong if not line.strip(b"\0")})

    def _wrong(self, lines: bytes) -> list[tuple[int, bytes, bytes]]:
        """Return (chip, expected line, line) of the chips whose line differs."""
        wrong = []
        for place, chip in enumerate(self._collective.memory.team.chips):
            span = slice(place * LINE_BYTES, (place + 1) * LINE_BYTES)
            if lines[span] != self._behind[span]:
                wrong.append((chip, self._behind[span], lines[span]))
        return wrong

    def _complain(self, lines: bytes) -> None:
        for chip, right, line in self._wrong(lines):
            raise self._plane.disagreement(chip, right, line)
        raise CollectiveError(f"a message of {self.label.text} arrived damaged")


class BoxMessages:
    """The messages of a round of boxes."""

    def __init__(
        self,
        plane: "MessagePlane",
        collective: Collective,
        number: int,
        rounds: "list[BoxMessages]",
    ) -> None:
        self.label, self._plane, self._collective = collective.label, plane, collective
        self._number, self._rounds = number, rounds
        self._waits, self._count, self._tell = plane.waits, plane.waits.count, plane.waits.text
        self.messages: list[Message] = []
        self._kept: list[Bytes] = []
        self._out: list[Any] = []
        self._in: list[Any] = []
        self._text = b""
        self.requests: MessageRequests | None = None

    def sends_to(self, rank: int) -> bool:
        """Return whether data goes to a process as messages: always."""
        return True

    def send(self, rank: int, chip: int, piece: Bytes, tag: int) -> None:
        """Add a box of a chip of this process to a chip of process ``rank``."""
        self._add(rank, piece, tag, is_send=True)
        self._out.append((chip, piece.data[:LINE_BYTES]))

    def receive(self, rank: int, sender: int, chip: int, piece: Bytes, tag: int) -> None:
        """Add a box of a chip of process ``rank`` to one of this process."""
        self._add(rank, piece, tag, is_send=False)
        self._in.append((sender, chip, piece.data[:8].cast("Q"), piece))

    def _add(self, rank: int, piece: Bytes, tag: int, *, is_send: bool) -> None:
        self.messages.append(Message(rank, tag, is_send, (place_of(piece),)))
        self._kept.append(piece)

    def complete(self, mine: Sequence[int]) -> None:
        """Create the requests of all rounds, once every chip of this process has bound."""
        plane, lines = self._plane, self._collective.lines
        if self._number == 0:
            messages = [of_round.messages for of_round in self._rounds]
            kept = [of_round._kept for of_round in self._rounds]
            if any(messages):
                self.requests = plane.use(self._collective, messages, kept)
        else:
            self.requests = self._rounds[0].requests
        self._text = next(iter(lines.values()))[8:_SENT_LINE_BYTES]
        self._out = [(place, lines[plane.group_of(chip)]) for chip, place in self._out]
        self._in = [
            (digest, int.from_bytes(lines[plane.group_of(chip)][:8], "little"), (s, chip, piece))
            for s, chip, digest, piece in self._in
        ]

    def start(self) -> None:
        """Send the boxes of the round."""
        for place, line in self._out:
            place[:] = line
        if self.requests is not None:
            self.requests.start(self._number)

    def finish(self) -> None:
        """Return when the boxes of the others have arrived."""
        if self.requests is None:
            return
        count = self._count
        self._waits.crossing = self
        self._tell[:] = self._text
        count[0] += 1
        fitted = self.requests.finish(self._number)
        count[0] += 1
        for digest, right, where in self._in:
            if digest[0] != right:
                self._complain(*where)
        if not fitted:
            raise CollectiveError(f"a message of {self.label.text} arrived damaged")

    def __call__(self) -> None:
        """Return when all boxes of the round have arrived."""
        self.start()
        self.finish()

    def missing(self) -> list[int]:
        """Return the processes whose boxes have not arrived."""
        return sorted({message.rank for message in self.messages if not message.is_send})

    def _complain(self, sender: int, chip: int, piece: Bytes) -> None:
        line = self._collective.lines[self._plane.group_of(chip)]
        raise self._plane.disagreement(sender, line, bytes(piece[:LINE_BYTES]))


class MessagePlane(BoundPlane):
    """See `galaxy_mpi.mesh.plane.Plane`.

    Parameters
    ----------
    placement, axis, rank, memories
        As for `BoundPlane`.
    waits : Waits
    cache : RequestCache
    units : mapping of Team to sequence of tuple of int
        The processes of each team that share memory.
    """

    shares_memory = False

    def __init__(
        self,
        placement: Placement,
        axis: Axis,
        rank: int,
        memories: Sequence[TeamMemory],
        waits: Waits,
        cache: RequestCache,
        units: Mapping[Team, Sequence[tuple[int, ...]]],
    ) -> None:
        super().__init__(placement, axis, rank, memories, waits)
        self._cache, self._units = cache, units
        self._lines: dict[tuple[Team, int], Bytes] = {}

    def use(
        self, collective: Collective, rounds: Sequence[Sequence[Message]], kept: object
    ) -> MessageRequests:
        """Return requests that live as long as the program."""
        requests = self._cache.use(rounds, kept)
        collective.requests.append(requests)
        return requests

    def release(self, bound: object) -> None:
        """Free the requests that no other program uses."""
        assert isinstance(bound, list)
        for collective in bound:
            for requests in collective.requests:
                self._cache.release(requests)
            collective.requests.clear()

    def free(self) -> None:
        """Free all requests and the communicator."""
        self._cache.free()

    def owner(self, chip: int) -> int:
        """Return the process of a chip."""
        return self._placement.rank_of(chip)

    def row_messages(
        self, collective: Collective, *, in_parts: bool
    ) -> tuple[list[Message], set[int], list[Bytes]]:
        """Return the messages of a table, the chips whose rows arrive, and buffers to keep.

        The first buffer has a line for each chip of the team.
        """
        memory, slot, n_bytes = collective.memory, collective.slot, collective.n_bytes
        team, size = memory.team, self.size
        if (team, slot) not in self._lines:
            self._lines[team, slot] = np.zeros((len(team.chips), LINE_BYTES), np.uint8)
        lines = self._lines[team, slot]
        kept = [lines]
        messages, received = [], set()
        mine = next(unit for unit in self._units[team] if self.rank in unit)
        for number, group in enumerate(team.groups):
            rows = collective.data(number, size * n_bytes).reshape(size, n_bytes)
            kept.append(rows)
            for index, chip in enumerate(group):

                def message(rank: int, unit: Sequence[int], *, is_send: bool) -> Message:
                    line = lines[team.chips.index(chip)][:_SENT_LINE_BYTES]  # noqa: B023
                    pieces = [place_of(line)]
                    for data in self._read_by(unit, group, rows[index], in_parts):  # noqa: B023
                        pieces.append(place_of(data))
                    return Message(rank, chip, is_send, tuple(pieces))  # noqa: B023

                if self.owner(chip) == self.rank:
                    for unit in self._units[team]:
                        if unit is not mine:
                            receiver = unit[index % len(unit)]
                            messages.append(message(receiver, unit, is_send=True))
                elif self.owner(chip) not in mine and mine[index % len(mine)] == self.rank:
                    messages.append(message(self.owner(chip), mine, is_send=False))
                    received.add(chip)
        return messages, received, kept

    def _read_by(
        self, unit: Sequence[int], group: Sequence[int], row: Bytes, in_parts: bool
    ) -> list[Bytes]:
        """Return the parts of a row that the chips of a unit read; adjacent parts are joined."""
        if not in_parts:
            return [row]
        width, pieces = len(row) // len(group), list[list[int]]()
        for index, chip in enumerate(group):
            if self.owner(chip) in unit:
                if pieces and pieces[-1][1] == index * width:
                    pieces[-1][1] += width
                else:
                    pieces.append([index * width, (index + 1) * width])
        return [row[begin:end] for begin, end in pieces]

    def _table_crossing(self, collective: Collective, *, in_parts: bool) -> TeamCrossing:
        return RowMessages(self, collective, in_parts=in_parts)

    def _close(self) -> None:
        """Do nothing: others write to this process's memory only when it receives."""

    def _closing_crossing(self, collective: Collective) -> TeamCrossing:
        raise AssertionError("a program of messages needs no barrier at its end")

    def _round_crossings(
        self, collective: Collective, rounds: Sequence[Sequence[RoundPeers]]
    ) -> Sequence[Round]:
        crossings: list[BoxMessages] = []
        crossings += [BoxMessages(self, collective, n, crossings) for n in range(len(rounds[0]))]
        return crossings
