"""Groups over several hosts: shared memory inside a host, messages between hosts.

Each host has a copy of a table in shared memory. The row of a member on another host is received by
one process on behalf of its host, chosen by the member's number modulo the processes; then the
host's processes pass a barrier. Boxes go straight to their receiver: with a signal within a host,
as a message to another host.
"""

from collections.abc import Mapping, Sequence

from galaxy_mpi.arrays import Bytes
from galaxy_mpi.mesh.collective import Collective
from galaxy_mpi.mesh.crossing import Then, barrier_crossing
from galaxy_mpi.mesh.mesh import Axis
from galaxy_mpi.mesh.message_crossings import BoxMessages, RowMessages
from galaxy_mpi.mesh.message_plane import MessagePlane
from galaxy_mpi.mesh.message_requests import RequestCache
from galaxy_mpi.mesh.placement import Placement, Team
from galaxy_mpi.mesh.plane import GroupRounds, Round, TeamCrossing
from galaxy_mpi.mesh.rounds import spreads
from galaxy_mpi.mesh.signals import Posts, SignalCrossing, Signals
from galaxy_mpi.mesh.team_memory import TeamMemory
from galaxy_mpi.mesh.waits import Waits

__all__ = ["MixedPlane"]


class _MixedRound:
    """A round of boxes, some of them to other hosts."""

    def __init__(self, inside: SignalCrossing, outside: BoxMessages, ranks: Sequence[int]) -> None:
        self.label, self._inside, self._outside, self._ranks = inside.label, inside, outside, ranks

    def _way(self, rank: int) -> SignalCrossing | BoxMessages:
        return self._inside if rank in self._ranks else self._outside

    def send(self, rank: int, chip: int, head: Bytes | None, data: Bytes, tag: int) -> None:
        """Add a box of a chip of this process to a chip of process ``rank``."""
        self._way(rank).send(rank, chip, head, data, tag)

    def receive(
        self, rank: int, sender: int, chip: int, head: Bytes | None, data: Bytes, tag: int
    ) -> None:
        """Add a box of a chip of process ``rank`` to one of this process."""
        self._way(rank).receive(rank, sender, chip, head, data, tag)

    def complete(self, mine: Sequence[int]) -> None:
        """Complete both."""
        self._inside.complete(mine)
        self._outside.complete(mine)

    def __call__(self) -> None:
        """Return when all boxes of the round have arrived. All are sent before the first wait."""
        self._inside.start()
        self._outside.start()
        self._outside.finish()
        self._inside.finish()


class MixedPlane(MessagePlane):
    """See `galaxy_mpi.mesh.plane.Plane`; parameters as of `MessagePlane`."""

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
        super().__init__(placement, axis, rank, memories, waits, cache, units)
        self._signals: dict[Team, Signals] = {}
        self._held: list[Posts] = []

    def _close(self) -> None:
        super(MessagePlane, self)._close()

    def _closing_crossing(self, collective: Collective) -> TeamCrossing:
        return barrier_crossing(self, collective)

    def _table_crossing(self, collective: Collective, *, in_parts: bool) -> TeamCrossing:
        rows = RowMessages(self, collective, in_parts=in_parts)
        return Then(rows, barrier_crossing(self, collective))

    def _round_crossings(self, collective: Collective, rounds: GroupRounds) -> Sequence[Round]:
        memory, outside = collective.memory, list[BoxMessages]()
        outside += [BoxMessages(self, collective, n, outside) for n in range(len(rounds[0]))]
        if memory.team not in self._signals:
            self._signals[memory.team] = Signals(memory, self._held)
        signals = self._signals[memory.team]
        crossings: list[Round] = [
            _MixedRound(
                SignalCrossing(self, collective, signals, is_last=False), messages, memory.ranks
            )
            for messages in outside
        ]
        if not spreads(rounds):
            crossings[-1] = Then(crossings[-1], barrier_crossing(self, collective))
        return crossings
