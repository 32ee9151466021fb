"""What a transport offers: groups, and exchanges that are bound once and used many times.

An *exchange* is a fixed sequence of steps of one collective on one chip: which bytes go to whom,
and where the bytes that come are to land. Binding it may be slow (MPI sets up persistent
requests); walking it must be fast::

    exchange.begin()          # all receives of all steps are posted
    exchange.step(0)          # sends of step 0 leave; returns when its receives have landed
    exchange.step(1)
    exchange.end()            # the sent arrays may be overwritten again
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from galaxy_mpi.arrays import Bytes
from galaxy_mpi.errors import UserError
from galaxy_mpi.mesh.mesh import Axis, Mesh

__all__ = ["Board", "Exchange", "Group", "Message", "Step", "Transport", "stripes"]

_T = TypeVar("_T")

PAGE_BYTES = 2048
"""Smallest piece worth a link of its own: a bfloat16 tile (assumed; tt-metal stripes by pages)."""


@dataclass(frozen=True)
class Message:
    """Bytes to or from one member of the group."""

    peer: int
    """Index in the group, not a rank."""
    data: Bytes
    """Contiguous; a view of storage that outlives the exchange."""
    note: Bytes
    """A few bytes that travel with it: time stamps. Storage as for ``data``."""


@dataclass(frozen=True)
class Step:
    """What one chip sends and receives in one round of a schedule."""

    sends: tuple[Message, ...]
    receives: tuple[Message, ...]


class Exchange(Protocol):
    """A bound sequence of steps. One use at a time: begin, every step in order, end."""

    def begin(self) -> None:
        """Post the receives of all steps."""

    def step(self, number: int) -> None:
        """Send what this step sends and return when what it receives is there."""

    def end(self) -> None:
        """Return when all that was sent may be overwritten."""

    def free(self) -> None:
        """Release the requests. The exchange cannot be used afterwards."""


class Board(Protocol):
    """A table with a row for each member, which all read after a meeting.

    What a member writes after one meeting may be seen by others before the next one, so a table
    is used again only after another one has been met at.
    """

    rows: Bytes
    """Shape (size, n_bytes); row i is written by member i."""
    stamps: NDArray[np.float64]
    """Shape (size,): a number of each member that travels with its row."""

    def meet(self) -> None:
        """Return when all members have written, and what this chip reads is there."""

    def free(self) -> None:
        """Release what the table is bound to. It cannot be used afterwards."""


class Group(Protocol):
    """The chips of one row or one column, as seen by one of them."""

    @property
    def size(self) -> int:
        """Number of members."""

    @property
    def index(self) -> int:
        """Place of this chip in the group."""

    def allocate(self, n_bytes: int) -> Bytes:
        """Return storage that messages can be bound to; what it holds is undefined."""

    def bind(self, steps: Sequence[Step], *, num_links: int, label: str) -> Exchange:
        """Set up an exchange. Every member binds the same exchanges in the same order.

        Parameters
        ----------
        steps : sequence of Step
            This chip's part of the schedule.
        num_links : int
            Links to a neighbour; each message is cut into so many stripes (see `stripes`).
        label : str
            Said in error messages: what the chip was doing.
        """

    def board(self, n_bytes: int, *, in_parts: bool, num_links: int, label: str) -> Board:
        """Return a table. Every member makes the same ones in the same order.

        Parameters
        ----------
        n_bytes : int
            Of a row.
        in_parts : bool
            Whether member j reads part j of every row only (``n_bytes / size`` bytes each).
        num_links, label
            As in `bind`.
        """

    def recycle(self) -> None:
        """Take back all storage, to be allocated anew: exchanges and tables have been freed.

        All members recycle at the same place of the program.
        """


class Transport(Protocol):
    """One chip's connection to all others."""

    @property
    def mesh(self) -> Mesh:
        """The mesh this chip is part of."""

    @property
    def rank(self) -> int:
        """This chip's rank."""

    def group(self, axis: Axis) -> Group:
        """Return this chip's group along ``axis``."""

    def from_root(self, compute: Callable[[], _T]) -> _T:
        """Compute on rank 0 and return the result on every rank; a UserError is raised on all."""

    def agree(self, error: UserError | None) -> None:
        """Raise the first error that any rank brings, on every rank. For set-up, not for steps."""

    def free(self) -> None:
        """Release the connection. Collective: every chip calls it."""

    def begin(self, what: str) -> None:
        """Say what this chip is about now, for the message of a wait without end."""

    def allow_waits(self, timeout_s: float) -> None:
        """Let this chip wait so many seconds for others, if it would not; see `honest_wait_s`."""

    def gather(self, value: _T) -> list[_T] | None:
        """Return every rank's value on rank 0, None elsewhere. For reports, not for steps."""


def stripes(data: Bytes, num_links: int) -> list[Bytes]:
    """Cut a message into one piece per link; small ones use fewer links.

    Examples
    --------
    >>> import numpy as np
    >>> [len(s) for s in stripes(np.zeros(9000, np.uint8), 4)]
    [2304, 2304, 2304, 2088]
    >>> [len(s) for s in stripes(np.zeros(1088, np.uint8), 4)]
    [1088]
    """
    used = max(1, min(num_links, len(data) // PAGE_BYTES))
    width = -(-len(data) // used)
    width = -(-width // 64) * 64  # links carry whole words
    return [data[start : start + width] for start in range(0, len(data), width)] or [data]
