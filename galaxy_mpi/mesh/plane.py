"""How the chips of a mesh exchange bytes along one axis, as one process sees it.

A process plays one chip or several. A `Plane` stands for all groups of one axis that have a chip in
this process. Programs bind their collectives to it once, in the same order on every chip, and then
run them many times. There are three shapes of exchange:

*Table*: a row of bytes for each member of the group. Each chip writes its own row, all cross, then
everybody reads the others' rows.

*Relay*: a table whose rows are passed on from neighbour to neighbour in rounds. Where memory is
shared a row stays where it is, and only the notice that it is there goes round.

*Boxes*: what goes from neighbour to neighbour in rounds. Each chip writes the boxes that it sends
in a round, crosses, and reads the boxes that it received.

A **crossing** is where a chip waits for others; the runner calls it once a process, when all chips
of the process have done what comes before it.

Lifetime of memory, for all planes: what is received may be read until the next crossing of another
collective on the same axis. Memory is taken in turns: the first collective of a program takes slot
2, then 0, 1, 0, 1, ... Whoever passes a collective knows that all members have entered it, so all
have left the one before; what is written now was last read two collectives ago. No barrier is
needed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from galaxy_mpi.arrays import Bytes
from galaxy_mpi.mesh.mesh import Axis

__all__ = [
    "N_SLOTS",
    "Boxes",
    "Crossing",
    "Label",
    "Plane",
    "RoundPeers",
    "RowHops",
    "Table",
    "slot_of",
]

N_SLOTS = 3
"""Pieces of memory that the collectives of an axis take in turns."""

TEXT_BYTES = 112
"""Of a label's text that travels with a collective, to be shown when chips disagree."""


def slot_of(number: int) -> int:
    """Return the slot of a program's collective, by its number on the axis.

    Neighbours in time never share one, across programs too: the first of a program is alone in 2.

    Examples
    --------
    >>> [slot_of(n) for n in range(6)]
    [2, 0, 1, 0, 1, 0]
    """
    return 2 if number == 0 else (number - 1) % 2


@dataclass(frozen=True)
class Label:
    """What all members of a group must agree on when they cross."""

    digest: int
    """64 bits."""
    text: str
    """Shown when they do not, and when a wait does not end."""


class Crossing(Protocol):
    """Where the chips of this process wait for those of others."""

    label: Label

    def __call__(self) -> None:
        """Return when the data of all members is there.

        Raises
        ------
        CollectiveError
            If a member crosses with another label; the error names both chips and both texts.
        """


@dataclass(frozen=True)
class Table:
    """A row for each member of a group, as one chip sees it."""

    mine: Bytes
    """Shape (n_bytes,): this chip's row, to be written before the crossing."""
    rows: Bytes
    """Shape (size, n_bytes): all rows, to be read after it. In parts: only this chip's part of
    other members' rows is there (``n_bytes / size`` bytes each)."""
    times: NDArray[np.float64]
    """Shape (size,): a number of each member that travels with its row; a chip writes its own."""
    crossing: Crossing


@dataclass(frozen=True)
class Boxes:
    """What one chip sends and receives in rounds."""

    sends: list[list[Bytes]]
    """By round, then in the order of the round's sends: shape (n_bytes,) each."""
    receives: list[list[Bytes]]
    """By round, then in the order of the round's receives."""
    send_times: list[list[NDArray[np.float64]]]
    """Numbers that travel with each box, shape (size,): when each member entered; NaN: unknown."""
    receive_times: list[list[NDArray[np.float64]]]
    crossings: list[Crossing]
    """One a round."""


@dataclass(frozen=True)
class RoundPeers:
    """Members (by index in the group) that one chip sends to, and receives from, in a round."""

    sends: tuple[int, ...]
    receives: tuple[int, ...]


@dataclass(frozen=True)
class RowHops:
    """Rows that one chip passes on, and those that come, in a round: (member, row) each.

    Of two members at most one row goes from the one to the other in a round.
    """

    sends: tuple[tuple[int, int], ...]
    receives: tuple[tuple[int, int], ...]

    def peers(self) -> RoundPeers:
        """Return the members alone."""
        return RoundPeers(
            tuple(member for member, _ in self.sends), tuple(member for member, _ in self.receives)
        )


class Plane(Protocol):
    """All groups of one axis that have a chip in this process."""

    axis: Axis
    size: int
    """Members of a group."""
    shares_memory: bool
    """Whether a chip reads other members' rows where they were written, so that nothing is copied:
    then rows need not be cut into parts."""

    def begin(self) -> None:
        """Begin to bind a program: its first collective on the axis is the next one."""

    def table(self, rank: int, label: Label, n_bytes: int, *, in_parts: bool) -> Table:
        """Return the next collective of a chip as a table; all chips ask in the same order.

        Parameters
        ----------
        rank : int
            A chip of this process.
        label : Label
        n_bytes : int
            Of a row.
        in_parts : bool
            Whether member j reads part j of every row only.
        """

    def relay(
        self, rank: int, label: Label, n_bytes: int, rounds: Sequence[Sequence[RowHops]]
    ) -> Table:
        """Return the next collective of a chip as a table whose rows are passed on.

        Parameters
        ----------
        rank, label, n_bytes
            As in `table`.
        rounds : sequence of sequence of RowHops
            By member, then by round. A member passes on its own row and those that came in rounds
            before; at the end it has all.
        """

    def boxes(
        self, rank: int, label: Label, n_bytes: int, rounds: Sequence[Sequence[RoundPeers]]
    ) -> Boxes:
        """Return the next collective of a chip as boxes.

        Parameters
        ----------
        rank, label
            As in `table`.
        n_bytes : int
            Of a box.
        rounds : sequence of sequence of RoundPeers
            By member, then by round: who sends to whom. The k-th box that a member sends to another
            in a round is the k-th that the other receives from it.
        """

    def end(self) -> object:
        """End the binding of a program; return what was bound, for `release`.

        A single collective gets a barrier behind it, because it would follow itself in the same
        slot.
        """

    def closing(self) -> Sequence[Crossing]:
        """Return what a program crosses at its end, see `end`."""

    def release(self, bound: object) -> None:
        """Give back what a program bound (persistent requests), see `end`; memory is kept."""
