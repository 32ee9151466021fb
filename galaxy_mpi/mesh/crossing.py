"""How processes of a host synchronise for a table: a barrier, and the same labels on all.

Before the barrier, a process writes the digests of its chips' labels next to the data, and what it
waits for into its line (`galaxy_mpi.mesh.waits`). After the barrier it compares all digests with
the expected bytes, in one comparison. If one differs, all processes of the team find it, so the
other one's line still has the text of its label.
"""

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from galaxy_mpi.arrays import Bytes
from galaxy_mpi.mesh.binding import BoundPlane
from galaxy_mpi.mesh.collective import Collective
from galaxy_mpi.mesh.waits import DIGEST_BYTES, Waits

if TYPE_CHECKING:
    from ctypes import c_void_p

__all__ = ["BarrierCrossing", "Then", "barrier_crossing"]


class BarrierCrossing:
    """A barrier of the processes of a team on this host, which then compare digests."""

    def __init__(self, plane: BoundPlane, collective: Collective) -> None:
        self.label, self._plane, self._collective = collective.label, plane, collective
        self._memory = collective.memory
        self._right: list[bytes] = []
        self._arguments: tuple[object, ...] = ()

    def complete(self, mine: Sequence[int]) -> None:
        """Collect the labels of all groups, once every chip of this process has bound."""
        lines, group_of = self._collective.lines, self._plane.group_of
        memory, waits = self._memory, self._plane.waits
        self._right = [lines[group_of(chip)] for chip in memory.chips]
        text = lines[group_of(mine[0])][DIGEST_BYTES : DIGEST_BYTES + len(waits.text)]
        self._arguments = (
            self,
            memory.turn,
            memory.digests,
            b"".join(lines[group_of(chip)][:DIGEST_BYTES] for chip in mine),
            b"".join(line[:DIGEST_BYTES] for line in self._right),
            memory.came,
            memory.place,
            waits,
            waits.text,
            text,
            waits.count,
            memory.barrier.wait_at,
            memory.barrier.place,
        )

    def timed(self, spent_s: list[float]) -> tuple[Callable[..., None], tuple[object, ...]]:
        """Return a call that crosses, and adds its seconds to the only element of ``spent_s``."""
        return _cross_barrier, (*self._arguments, spent_s)

    def __call__(self) -> None:
        """Return when all have arrived; see `galaxy_mpi.mesh.plane.Crossing`."""
        cross, arguments = self.timed([0.0])
        cross(*arguments)

    def missing(self) -> list[int]:
        """Return the processes that have not arrived."""
        return self._memory.missing(self._memory.turn[0])

    def complain(self, digests: bytes) -> None:
        """Raise an error that names a chip with a different label, and one of this process."""
        for place, (chip, right) in enumerate(zip(self._memory.chips, self._right, strict=True)):
            digest = digests[place * DIGEST_BYTES : (place + 1) * DIGEST_BYTES]
            if digest != right[:DIGEST_BYTES]:
                raise self._plane.disagreement(chip, right, digest)


def _cross_barrier(
    crossing: BarrierCrossing,
    turn: list[int],
    digests: Sequence[tuple[memoryview, memoryview]],
    my_digests: bytes,
    right_digests: bytes,
    came: memoryview,
    place: int,
    waits: Waits,
    line: memoryview,
    text: bytes,
    count: memoryview,
    wait: "Callable[[c_void_p], int]",
    barrier: "c_void_p",
    spent_s: list[float],
) -> None:
    """Cross a barrier. All it needs are arguments: with attributes a step took some 5 % longer."""
    began = time.perf_counter()
    now = turn[0] = turn[0] + 1
    all_digests, mine = digests[now & 1]
    mine[:] = my_digests
    came[place] = now
    waits.crossing = crossing
    line[:] = text
    count[0] += 1
    wait(barrier)
    count[0] += 1
    if all_digests.tobytes() != right_digests:
        crossing.complain(all_digests.tobytes())
    spent_s[0] += time.perf_counter() - began


class Alone:
    """A crossing of a team that has only this process here: nothing to wait for."""

    def __init__(self, collective: Collective) -> None:
        self.label = collective.label

    def complete(self, mine: Sequence[int]) -> None:
        """Do nothing."""

    def __call__(self) -> None:
        """Do nothing: the runner has already run every chip up to here."""


def barrier_crossing(plane: BoundPlane, collective: Collective) -> BarrierCrossing | Alone:
    """Return the barrier of a team's processes on this host."""
    if len(collective.memory.ranks) == 1:
        return Alone(collective)
    return BarrierCrossing(plane, collective)


class Then:
    """A crossing followed by a barrier of the host."""

    def __init__(self, first: Any, barrier: BarrierCrossing | Alone) -> None:
        self.label, self._first, self._barrier = first.label, first, barrier

    def send(self, rank: int, chip: int, head: Bytes | None, data: Bytes, tag: int) -> None:
        """Add a box to the first, see `SignalCrossing`."""
        self._first.send(rank, chip, head, data, tag)

    def receive(
        self, rank: int, sender: int, chip: int, head: Bytes | None, data: Bytes, tag: int
    ) -> None:
        """Add a box to the first, see `SignalCrossing`."""
        self._first.receive(rank, sender, chip, head, data, tag)

    def complete(self, mine: Sequence[int]) -> None:
        """Complete both."""
        self._first.complete(mine)
        self._barrier.complete(mine)

    def __call__(self) -> None:
        """Cross both."""
        self._first()
        self._barrier()
