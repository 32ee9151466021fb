"""Groups whose processes share no memory: rows and boxes are sent as messages.

A row, or the part of it that the other process reads, is one message: label, data. So is a
box, as it is stored. The receiver compares the label with its own. A message
that is larger than its buffer is the same kind of error, because its label must differ.

The same code serves several hosts (`galaxy_mpi.mesh.mixed_plane`): there the processes of a team on
one host are a *unit*, and one of them receives a row for all of them.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from galaxy_mpi.arrays import Bytes
from galaxy_mpi.mesh.binding import BoundPlane
from galaxy_mpi.mesh.collective import Collective
from galaxy_mpi.mesh.mesh import Axis
from galaxy_mpi.mesh.message_crossings import SENT_LINE_BYTES, BoxMessages, RowMessages
from galaxy_mpi.mesh.message_requests import Message, MessageRequests, RequestCache, place_of
from galaxy_mpi.mesh.placement import Placement, Team
from galaxy_mpi.mesh.plane import GroupRounds, Round, TeamCrossing
from galaxy_mpi.mesh.relays import MessageRelay
from galaxy_mpi.mesh.team_memory import TeamMemory
from galaxy_mpi.mesh.waits import LINE_BYTES, Waits

__all__ = ["MessagePlane"]


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
                    line = lines[team.chips.index(chip)][:SENT_LINE_BYTES]  # noqa: B023
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

    def _round_crossings(self, collective: Collective, rounds: GroupRounds) -> Sequence[Round]:
        crossings: list[BoxMessages] = []
        crossings += [BoxMessages(self, collective, n, crossings) for n in range(len(rounds[0]))]
        return crossings

    def _relay_crossing(self, collective: Collective, *, is_one_call: bool) -> TeamCrossing:
        rounds = [r for r in collective.rounds if isinstance(r, BoxMessages)]
        if len(rounds) < len(collective.rounds) or not is_one_call:
            return super()._relay_crossing(collective, is_one_call=False)
        return MessageRelay(self.waits, collective, rounds)
