"""All chips of every group in one process: plain memory, and nothing to wait for."""

from collections.abc import Sequence

import numpy as np

from galaxy_mpi.arrays import Bytes
from galaxy_mpi.errors import ProgramError
from galaxy_mpi.mesh.collective import line_of, mismatch
from galaxy_mpi.mesh.mesh import Axis, Mesh
from galaxy_mpi.mesh.plane import (
    Boxes,
    Crossing,
    GroupRounds,
    Label,
    RowHops,
    Table,
    slot_of,
)
from galaxy_mpi.mesh.rounds import numbered, places_of

__all__ = ["LocalCrossing", "LocalPlane"]


class LocalCrossing:
    """Nothing to wait for: the runner has already run every chip up to here.

    That all chips bind the same collective is checked when they bind.
    """

    def __init__(self, label: Label) -> None:
        self.label = label

    def __call__(self) -> None:
        """Do nothing."""


class _Collective:
    """One collective of one group, shared by its members."""

    def __init__(self, label: Label, rank: int, memory: Bytes, n_rounds: int) -> None:
        self.label, self.first_rank, self.memory = label, rank, memory
        self.crossings: list[Crossing] = [LocalCrossing(label) for _ in range(n_rounds)]


class LocalPlane:
    """See `galaxy_mpi.mesh.plane.Plane`."""

    shares_memory = True

    def __init__(self, mesh: Mesh, axis: Axis) -> None:
        self._mesh, self.axis, self.size = mesh, axis, mesh.size(axis)
        self._memory: dict[tuple[int, int], Bytes] = {}
        self._chips: set[int] = set()
        """Those that have bound a collective."""
        self.begin()

    @property
    def bytes_per_chip(self) -> int:
        """A chip's share of the memory of all slots."""
        return sum(map(len, self._memory.values())) // max(1, len(self._chips))

    def begin(self) -> None:
        """Begin to bind a program."""
        self._bound: dict[tuple[int, int], _Collective] = {}
        self._next: dict[int, int] = {}

    def table(self, rank: int, label: Label, n_bytes: int, *, in_parts: bool) -> Table:
        """Return the next collective of a chip as a table."""
        made = self._collective(rank, label, self.size * n_bytes, 1)
        rows = made.memory[: self.size * n_bytes].reshape(self.size, n_bytes)
        return Table(rows[self._mesh.index(rank, self.axis)], rows, made.crossings[0])

    def relay(
        self, rank: int, label: Label, n_bytes: int, rounds: Sequence[Sequence[RowHops]]
    ) -> Table:
        """Return the next collective of a chip as a table; rows need not be passed on."""
        return self.table(rank, label, n_bytes, in_parts=False)

    def boxes(self, rank: int, label: Label, n_bytes: int, rounds: GroupRounds) -> Boxes:
        """Return the next collective of a chip as boxes."""
        me, n_rounds = self._mesh.index(rank, self.axis), len(rounds[0])
        places = places_of(rounds)
        made = self._collective(rank, label, len(places) * n_bytes, n_rounds)

        def box(number: int, sender: int, receiver: int, k: int) -> Bytes:
            where = places[number, sender, receiver, k]
            return made.memory[where * n_bytes : (where + 1) * n_bytes]

        sends = [
            [box(n, me, peer, k) for k, peer in numbered(peers.sends)]
            for n, peers in enumerate(rounds[me])
        ]
        receives = [
            [box(n, peer, me, k) for k, peer in numbered(peers.receives)]
            for n, peers in enumerate(rounds[me])
        ]
        return Boxes(sends, receives, made.crossings)

    def end(self) -> object:
        """Return nothing: chips of one process never overtake each other."""

    def closing(self) -> Sequence[Crossing]:
        """Return nothing: chips of one process never overtake each other."""
        return ()

    def release(self, bound: object) -> None:
        """Do nothing: there is only memory."""

    def _collective(self, rank: int, label: Label, n_bytes: int, n_rounds: int) -> _Collective:
        """Return the next collective of a chip's group; the first chip creates it."""
        self._chips.add(rank)
        number = self._next.get(rank, 0)
        self._next[rank] = number + 1
        group = self._mesh.group(rank, self.axis)[0]
        made = self._bound.get((group, number))
        if made is None:
            memory = self._slot(group, slot_of(number), n_bytes)
            made = self._bound[group, number] = _Collective(label, rank, memory, n_rounds)
        if made.label != label:
            lines = line_of(label, ""), line_of(made.label, "")
            raise ProgramError(mismatch(self._mesh, rank, lines[0], made.first_rank, lines[1]))
        return made

    def _slot(self, group: int, slot: int, n_bytes: int) -> Bytes:
        """Return memory of a slot. If it grows, earlier bindings keep the smaller memory."""
        memory = self._memory.get((group, slot))
        if memory is None or len(memory) < n_bytes:
            memory = self._memory[group, slot] = np.zeros(-(-n_bytes // 64) * 64, np.uint8)
        return memory
