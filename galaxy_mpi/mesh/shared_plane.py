"""Groups whose processes are all on this host: rows and boxes are read where they were written.

As the chips write into a remote L1 and raise a semaphore, a chip here writes into memory that the
receiver maps too. A table is crossed with one barrier of the processes that share the groups,
however many groups and chips those are. A round of boxes is crossed with one notice to each process
that boxes go to, and one from each that they come from.
"""

from collections.abc import Sequence
from typing import Any

from galaxy_mpi.mesh.binding import BoundPlane, Collective
from galaxy_mpi.mesh.crossing import NoticeCrossing, Notices, Then, barrier_crossing
from galaxy_mpi.mesh.placement import Team
from galaxy_mpi.mesh.plane import RoundPeers
from galaxy_mpi.mesh.rounds import spreads
from galaxy_mpi.mesh.team_memory import TeamMemory

__all__ = ["SharedPlane"]


class SharedPlane(BoundPlane):
    """See `galaxy_mpi.mesh.plane.Plane`; parameters as of `BoundPlane`."""

    shares_memory = True

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._notices: dict[Team, Notices] = {}
        self._held: list[Any] = []

    def _table_crossing(self, collective: Collective, *, in_parts: bool) -> Any:
        return barrier_crossing(self, collective)

    def _closing_crossing(self, collective: Collective) -> Any:
        return barrier_crossing(self, collective)

    def _round_crossings(
        self, collective: Collective, rounds: Sequence[Sequence[RoundPeers]]
    ) -> list[Any]:
        notices = self._notices_of(collective.memory)
        last = len(rounds[0]) - 1
        crossings: list[Any] = [
            NoticeCrossing(self, collective, notices, is_last=number == last)
            for number in range(last + 1)
        ]
        if not spreads(rounds):
            crossings[-1] = Then(crossings[-1], barrier_crossing(self, collective))
        return crossings

    def _notices_of(self, memory: TeamMemory) -> Notices:
        """Return the notices of a team: their numbers go on from program to program."""
        if memory.team not in self._notices:
            self._notices[memory.team] = Notices(memory, self._held)
        return self._notices[memory.team]
