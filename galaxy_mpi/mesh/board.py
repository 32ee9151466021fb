"""A table with a row for each member of a group: everybody writes its own and reads the others'.

Where the group shares memory the table is one piece of it, and a meeting is all that takes place:
nothing is copied. Elsewhere the rows, or the parts of them that somebody reads, travel as messages
to everybody at once.
"""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from galaxy_mpi.arrays import Bytes
from galaxy_mpi.mesh.meeting import Meeting
from galaxy_mpi.mesh.transport import Exchange, Message, Step

__all__ = ["MessageBoard", "SharedBoard"]

_STAMP_BYTES = 8


class Bindable(Protocol):
    """What a `MessageBoard` needs of a group."""

    size: int
    index: int

    def allocate(self, n_bytes: int) -> Bytes: ...

    def bind(self, steps: list[Step], *, num_links: int, label: str) -> Exchange: ...


class MessageBoard:
    """A table whose rows travel; see `galaxy_mpi.mesh.transport.Group.board`."""

    def __init__(
        self, group: Bindable, n_bytes: int, *, in_parts: bool, num_links: int, label: str
    ) -> None:
        size, me = group.size, group.index
        self.rows = group.allocate(size * n_bytes).reshape(size, n_bytes)
        raw = group.allocate(size * _STAMP_BYTES)
        raw[...] = 0
        self.stamps: NDArray[np.float64] = raw.view(np.float64)
        notes, width = raw.reshape(size, _STAMP_BYTES), n_bytes // size

        def read_by(member: int, row: Bytes) -> Bytes:
            return row[member * width : (member + 1) * width] if in_parts else row

        # Starting behind oneself: not everybody writes to the first member first.
        others = [(me + k) % size for k in range(1, size)]
        sends = tuple(Message(p, read_by(p, self.rows[me]), notes[me]) for p in others)
        receives = tuple(Message(p, read_by(me, self.rows[p]), notes[p]) for p in others)
        self._exchange = group.bind([Step(sends, receives)], num_links=num_links, label=label)

    def meet(self) -> None:
        """Return when what this chip reads of the others' rows is there."""
        exchange = self._exchange
        exchange.begin()
        exchange.step(0)
        exchange.end()

    def free(self) -> None:
        """Release the exchange."""
        self._exchange.free()


class SharedBoard:
    """A table in memory of the group."""

    def __init__(
        self,
        memory: Bytes,
        size: int,
        n_bytes: int,
        meeting: Meeting,
        *,
        watchdog: Any,
        describe: Callable[[int, float], str],
    ) -> None:
        cut = size * _STAMP_BYTES
        self.stamps: NDArray[np.float64] = memory[:cut].view(np.float64)
        self.rows = memory[cut : cut + size * n_bytes].reshape(size, n_bytes)
        self._meeting, self._watchdog, self.describe = meeting, watchdog, describe
        self._ticket = (self, 0)

    @staticmethod
    def n_bytes(size: int, n_bytes: int) -> int:
        """Return how much memory a table takes."""
        return size * (_STAMP_BYTES + n_bytes)

    def meet(self) -> None:
        """Return when all members have written their rows."""
        self._watchdog.waiting = self._ticket
        self._meeting.meet()
        self._watchdog.waiting = None

    def free(self) -> None:
        """Do nothing: the memory goes back when the group's is recycled."""
