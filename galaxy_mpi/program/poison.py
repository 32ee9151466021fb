"""A debugging aid (``--check``): overwrite memory as soon as it may be reused.

The lifetime rules (`galaxy_mpi.mesh.plane`) say when received memory may be written again. Usually
that happens later, so a call that reads too late mostly still finds valid data. Here it finds 0xFF
(NaN in float32), in every layout of chips and ranks:

* What a chip has received is copied to memory of its own, which is filled as soon as the next
  collective on the axis has been crossed.
* What a chip writes in a collective is filled as soon as the previous collective on the axis has
  been passed.
* So are arrays that are returned to the pool.
"""

from collections.abc import Callable, Sequence

import numpy as np

from galaxy_mpi.arrays import Bytes
from galaxy_mpi.mesh.mesh import Axis
from galaxy_mpi.mesh.plane import Boxes, Crossing, GroupRounds, Label, Plane, RowHops, Table

__all__ = ["POISON", "PoisonedPlane"]

POISON = 0xFF
"""Four of them are a NaN in float32, as are two in bfloat16."""


class PoisonedPlane:
    """A plane as one chip sees it while it binds a program, see `Plane`.

    A collective may be bound before the previous one is passed. Its memory is free only after that
    one, so the fill is added there.

    Parameters
    ----------
    plane : Plane
    call : callable
        Adds a call to the chip's program.
    """

    def __init__(self, plane: Plane, call: Callable[..., None]) -> None:
        self._plane, self._call = plane, call
        self.axis: Axis = plane.axis
        self.size, self.shares_memory = plane.size, plane.shares_memory
        self._n_bound = self._n_passed = 0
        self._last: dict[int, int] = {}
        """Number of a collective, by its last crossing."""
        self._waiting: dict[int, list[Bytes]] = {}
        self._firsts: set[int] = set()
        """The first crossings of collectives."""
        self._arriving: dict[int, list[tuple[Bytes, Bytes]]] = {}
        """What a crossing brings, with the copy that is read."""
        self._readable: list[Bytes] = []
        """The copies of the collective that was crossed last."""

    @property
    def bytes_per_chip(self) -> int:
        """A chip's share of the memory that collectives write to and receive in."""
        return self._plane.bytes_per_chip

    def table(self, rank: int, label: Label, n_bytes: int, *, in_parts: bool) -> Table:
        """Return the next collective of a chip as a table."""
        made = self._plane.table(rank, label, n_bytes, in_parts=in_parts)
        return self._table(made)

    def relay(
        self, rank: int, label: Label, n_bytes: int, rounds: Sequence[Sequence[RowHops]]
    ) -> Table:
        """Return the next collective of a chip as a table whose rows are passed on."""
        made = self._plane.relay(rank, label, n_bytes, rounds)
        return self._table(made)

    def boxes(self, rank: int, label: Label, n_bytes: int, rounds: GroupRounds) -> Boxes:
        """Return the next collective of a chip as boxes."""
        made = self._plane.boxes(rank, label, n_bytes, rounds)
        self._bind([box for of_round in made.sends for box in of_round], made.crossings)
        receives = [
            [self._copy_of(box, crossing) for box in of_round]
            for of_round, crossing in zip(made.receives, made.crossings, strict=True)
        ]
        return made._replace(receives=receives)

    def passed(self, crossing: Crossing) -> None:
        """Note that a crossing has been added, of this plane or another."""
        if id(crossing) in self._firsts:
            self._firsts.discard(id(crossing))
            for copy in self._readable:
                self._call(copy.fill, POISON)
            self._readable = []
        for copy, received in self._arriving.pop(id(crossing), ()):
            self._call(np.copyto, copy, received)
            self._readable.append(copy)
        number = self._last.pop(id(crossing), None)
        if number is not None:
            self._n_passed = number + 1
            for memory in self._waiting.pop(self._n_passed, ()):
                self._call(memory.fill, POISON)

    def begin(self) -> None:
        """Do nothing: the plane itself is begun elsewhere."""

    def end(self) -> None:
        """Do nothing: the plane itself is ended elsewhere."""

    def closing(self) -> Sequence[Crossing]:
        """Return the crossings at the end of a program."""
        return self._plane.closing()

    def release(self, program: object) -> None:
        """Release what a program bound."""
        self._plane.release(program)

    def _table(self, made: Table) -> Table:
        self._bind([made.mine], [made.crossing])
        return made._replace(rows=self._copy_of(made.rows, made.crossing))

    def _copy_of(self, received: Bytes, crossing: Crossing) -> Bytes:
        """Return what will have the same content after the crossing."""
        copy = np.empty(received.shape, np.uint8)
        self._arriving.setdefault(id(crossing), []).append((copy, received))
        return copy

    def _bind(self, written: list[Bytes], crossings: Sequence[Crossing]) -> None:
        number = self._n_bound
        self._n_bound += 1
        self._firsts.add(id(crossings[0]))
        self._last[id(crossings[-1])] = number
        if number > self._n_passed:
            self._waiting[number] = written
            return
        for memory in written:
            self._call(memory.fill, POISON)
