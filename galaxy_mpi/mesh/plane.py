"""How the chips of a mesh exchange bytes along one axis, as one process sees it.

A process plays one chip or several. A `Plane` stands for all groups of one axis that have a chip in
this process. Programs bind their collectives to it once, in the same order on every chip, and then
run them many times. There are three shapes of exchange:

*Table*: one row of bytes per member of the group. Each chip writes its own row, a barrier, then
each reads the others' rows.

*Relay*: a table whose rows are passed on from neighbour to neighbour in rounds. In shared memory a
row stays where it is, and only a signal that it is ready is passed on.

*Boxes*: buffers that go from neighbour to neighbour in rounds. Each chip writes the boxes that it
sends in a round, crosses, and reads the boxes that it received.

A **crossing** is where chips wait for each other. The runner calls it once per process, after all
chips of the process have run what comes before it.

Lifetime of memory, for all planes: received data may be read until the next collective on the same
axis crosses. Collectives use memory in turn: the first of a program uses slot 2, then 0, 1, 0, 1,
... A process that leaves a collective knows that all members have entered it, and so have left the
one before. Memory that is written now was last read two collectives ago, so no extra barrier is
needed.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from galaxy_mpi.arrays import Bytes
from galaxy_mpi.mesh.mesh import Axis

__all__ = [
    "N_SLOTS",
    "Boxes",
    "Crossing",
    "GroupRounds",
    "Label",
    "Plane",
    "Round",
    "RoundPeers",
    "RowHops",
    "Table",
    "TeamCrossing",
    "TimedCrossing",
    "slot_of",
]

N_SLOTS = 3
"""Memory regions that the collectives of an axis use in turn."""

TEXT_BYTES = 112
"""Length of a label's text, which is sent with a collective and shown if labels differ."""


def slot_of(number: int) -> int:
    """Return the slot of a program's collective, by its number on the axis.

    Consecutive collectives never share a slot, not even across programs: only the first uses 2.

    Examples
    --------
    >>> [slot_of(n) for n in range(6)]
    [2, 0, 1, 0, 1, 0]
    """
    return 2 if number == 0 else (number - 1) % 2


class Label(NamedTuple):
    """What all members of a group must agree on when they cross."""

    digest: int
    """64 bits."""
    text: str
    """Shown if they disagree, and if a wait times out."""


class Crossing(Protocol):
    """An exchange, where the chips of this process wait for those of others."""

    label: Label

    def __call__(self) -> None:
        """Return when the data of all members has arrived.

        Raises
        ------
        CollectiveError
            If a member has a different label; the error names both chips and both texts.
        """


class TimedCrossing(Protocol):
    """A crossing that times itself, in a call without attributes."""

    def timed(self, spent_s: list[float]) -> tuple[Callable[..., None], tuple[object, ...]]:
        """Return a call that crosses, and adds its seconds to the only element of ``spent_s``."""


class TeamCrossing(Crossing, Protocol):
    """The crossing of a team's collective, which is bound chip by chip."""

    def complete(self, mine: Sequence[int]) -> None:
        """Prepare to cross, once every chip of this process has bound."""


class Round(TeamCrossing, Protocol):
    """The crossing of a round of boxes."""

    def send(self, rank: int, chip: int, head: Bytes | None, data: Bytes, tag: int) -> None:
        """Add a box, or a row, of a chip of this process to a chip of process ``rank``.

        Parameters
        ----------
        rank, chip : int
        head : Bytes or None
            Where its label is; None if this chip has already sent the receiver a label.
        data : Bytes
        tag : int
            Of the message, if it is one.
        """

    def receive(
        self, rank: int, sender: int, chip: int, head: Bytes | None, data: Bytes, tag: int
    ) -> None:
        """Add a box, or a row, of chip ``sender`` of process ``rank`` to one of this process."""


class Table(NamedTuple):
    """A row for each member of a group, as one chip sees it."""

    mine: Bytes
    """Shape (n_bytes,): this chip's row; write it before the crossing."""
    rows: Bytes
    """Shape (size, n_bytes): all rows; read them after it. In parts: of other members' rows,
    only this chip's part is valid (``n_bytes / size`` bytes each)."""
    crossing: Crossing


class Boxes(NamedTuple):
    """Buffers that one chip sends and receives in rounds."""

    sends: list[list[Bytes]]
    """By round, then in the order of the round's sends: shape (n_bytes,) each."""
    receives: list[list[Bytes]]
    """By round, then in the order of the round's receives."""
    crossings: list[Crossing]
    """One per round."""


class RoundPeers(NamedTuple):
    """Members (by index in the group) that one chip sends to, and receives from, in a round."""

    sends: tuple[int, ...]
    receives: tuple[int, ...]


GroupRounds = tuple[tuple[RoundPeers, ...], ...]
"""By member of a group, then by round. A tuple, so that what follows from it is computed once."""


class RowHops(NamedTuple):
    """Rows that one chip sends and receives in a round, as (member, row).

    In a round, at most one row goes from one member to another.
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
    """Whether a chip reads other members' rows where they were written. Then nothing is copied, and
    rows need not be cut into parts."""

    @property
    def bytes_per_chip(self) -> int:
        """A chip's share of the memory that collectives write to and receive in."""

    def begin(self) -> None:
        """Begin to bind a program; the next collective on the axis is its first."""

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
            Whether member j reads only part j of every row.
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
            By member, then by round. A member passes on its own row and rows from earlier rounds;
            at the end it has all rows.
        """

    def boxes(self, rank: int, label: Label, n_bytes: int, rounds: GroupRounds) -> Boxes:
        """Return the next collective of a chip as boxes.

        Parameters
        ----------
        rank, label
            As in `table`.
        n_bytes : int
            Of a box.
        rounds : GroupRounds
            Who sends to whom. The k-th box that a member sends to another
            in a round is the k-th that the other receives from it.
        """

    def end(self) -> object:
        """End the binding of a program; return what was bound, for `release`.

        A single collective is followed by a barrier, because it would follow itself in the same
        slot.
        """

    def closing(self) -> Sequence[Crossing]:
        """Return the crossings at the end of a program, see `end`."""

    def release(self, bound: object) -> None:
        """Release what a program bound (persistent requests), see `end`; memory is kept."""
