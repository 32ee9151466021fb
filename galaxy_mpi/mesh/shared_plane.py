"""Groups whose processes are all on this host: rows and boxes are read where they were written.

Just as real chips write to a remote L1 and raise a semaphore, a chip here writes to memory that the
receiver maps too. A table needs one barrier of the processes that share the groups, however many
groups and chips there are. A round of boxes needs one signal to each receiving process, and one
from each sending process.
"""

from collections.abc import Sequence

from galaxy_mpi.mesh.binding import BoundPlane
from galaxy_mpi.mesh.collective import Collective
from galaxy_mpi.mesh.crossing import Then, barrier_crossing
from galaxy_mpi.mesh.mesh import Axis
from galaxy_mpi.mesh.placement import Placement, Team
from galaxy_mpi.mesh.plane import GroupRounds, Round, TeamCrossing
from galaxy_mpi.mesh.relays import SignalRelay
from galaxy_mpi.mesh.rounds import spreads
from galaxy_mpi.mesh.signals import Posts, SignalCrossing, Signals
from galaxy_mpi.mesh.team_memory import TeamMemory
from galaxy_mpi.mesh.waits import Waits

__all__ = ["SharedPlane"]


class SharedPlane(BoundPlane):
    """See `galaxy_mpi.mesh.plane.Plane`; parameters as of `BoundPlane`."""

    shares_memory = True

    def __init__(
        self,
        placement: Placement,
        axis: Axis,
        rank: int,
        memories: Sequence[TeamMemory],
        waits: Waits,
    ) -> None:
        super().__init__(placement, axis, rank, memories, waits)
        self._signals: dict[Team, Signals] = {}
        self._held: list[Posts] = []

    def _table_crossing(self, collective: Collective, *, in_parts: bool) -> TeamCrossing:
        return barrier_crossing(self, collective)

    def _closing_crossing(self, collective: Collective) -> TeamCrossing:
        return barrier_crossing(self, collective)

    def _round_crossings(self, collective: Collective, rounds: GroupRounds) -> Sequence[Round]:
        signals = self._signals_of(collective.memory)
        last = len(rounds[0]) - 1
        crossings: list[Round] = [
            SignalCrossing(self, collective, signals, is_last=number == last)
            for number in range(last + 1)
        ]
        if not spreads(rounds):
            crossings[-1] = Then(crossings[-1], barrier_crossing(self, collective))
        return crossings

    def _relay_crossing(self, collective: Collective, *, is_one_call: bool) -> TeamCrossing:
        rounds = [r for r in collective.rounds if isinstance(r, SignalCrossing)]
        signals = self._signals_of(collective.memory)
        if len(rounds) < len(collective.rounds) or not (signals.is_patient and is_one_call):
            return super()._relay_crossing(collective, is_one_call=False)
        return SignalRelay(self.waits, collective, signals, rounds)

    def _signals_of(self, memory: TeamMemory) -> Signals:
        """Return the signals of a team, whose numbers continue from program to program."""
        if memory.team not in self._signals:
            self._signals[memory.team] = Signals(memory, self._held)
        return self._signals[memory.team]
