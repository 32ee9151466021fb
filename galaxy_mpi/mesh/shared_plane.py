"""Groups whose processes are all on this host: rows and boxes are read where they were written.

As the chips write into a remote L1 and raise a semaphore, a chip here writes into memory that the
receiver maps too. A table is crossed with one barrier of the processes that share the groups,
however many groups and chips those are. A round of boxes is crossed with one notice to each process
that boxes go to, and one from each that they come from.
"""

from collections.abc import Sequence
from typing import Any

from galaxy_mpi.mesh.binding import BoundPlane, Collective, places_of, spreads, whole_lines
from galaxy_mpi.mesh.crossing import NoticeCrossing, Notices, Then, barrier_crossing
from galaxy_mpi.mesh.placement import Team
from galaxy_mpi.mesh.plane import Label, Relay, RoundPeers, RowHops
from galaxy_mpi.mesh.team_memory import TeamMemory
from galaxy_mpi.mesh.waits import LINE_BYTES

__all__ = ["SharedPlane"]


class SharedPlane(BoundPlane):
    """See `galaxy_mpi.mesh.plane.Plane`; parameters as of `BoundPlane`."""

    shares_memory = True

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._notices: dict[Team, Notices] = {}

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
        slot = collective.data(number, end)
        headers = slot[first:end].reshape(-1, LINE_BYTES)
        rows = slot[: self.size * n_bytes].reshape(self.size, n_bytes)
        group, rank_of = memory.team.groups[number], self._placement.rank_of
        for n, of_round in enumerate(peers[me]):
            crossing = collective.crossings[n]
            for peer in of_round.sends:
                if rank_of(group[peer]) != self.rank:
                    place = places[n, me, peer, 0]
                    tag = self._tag(place, group)
                    crossing.send(rank_of(group[peer]), rank, headers[place], tag)
            for peer in of_round.receives:
                if rank_of(group[peer]) != self.rank:
                    place = places[n, peer, me, 0]
                    tag = self._tag(place, group)
                    crossing.receive(rank_of(group[peer]), group[peer], rank, headers[place], tag)
        self._complete(collective, rank)
        crossings = [self._crossing(collective, n) for n in range(len(rounds[0]))]
        return Relay(rows[me], rows, memory.times[collective.slot, number], crossings)

    def _table_crossing(self, collective: Collective, *, in_parts: bool) -> Any:
        return barrier_crossing(self, collective)

    def _closing_crossing(self, collective: Collective) -> Any:
        return barrier_crossing(self, collective)

    def _round_crossings(
        self, collective: Collective, rounds: Sequence[Sequence[RoundPeers]]
    ) -> list[Any]:
        notices = self._notices_of(collective.memory)
        crossings: list[Any] = [NoticeCrossing(self, collective, notices) for _ in rounds[0]]
        if not spreads(rounds):
            crossings[-1] = Then(crossings[-1], barrier_crossing(self, collective))
        return crossings

    def _notices_of(self, memory: TeamMemory) -> Notices:
        """Return the notices of a team: their numbers go on from program to program."""
        if memory.team not in self._notices:
            self._notices[memory.team] = Notices(memory)
        return self._notices[memory.team]
