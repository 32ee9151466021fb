"""All chips in one process, a thread each: the transport of most tests, and of one-chip runs.

Messages are copied through queues, so a chip that overwrites a buffer too early, or forgets to
send, fails here just as it would over MPI. With ``record=True`` every message is noted, and
tests of structure ask who sent how many bytes to whom.
"""

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

import numpy as np

from galaxy_mpi.arrays import Bytes
from galaxy_mpi.errors import CollectiveError, UserError
from galaxy_mpi.mesh.board import MessageBoard
from galaxy_mpi.mesh.mesh import Axis, Mesh
from galaxy_mpi.mesh.transport import Step, stripes

__all__ = ["LoopbackTransport", "LoopbackWorld", "Sent"]

_T = TypeVar("_T")


@dataclass(frozen=True)
class Sent:
    """One stripe of one message, as recorded."""

    source: int
    target: int
    axis: Axis
    label: str
    link: int
    n_bytes: int


@dataclass
class LoopbackWorld:
    """The queues between the chips of a mesh, and the threads that play them.

    Parameters
    ----------
    mesh : Mesh
    timeout_s : float
        How long a chip waits for another, in seconds of host time.
    record : bool
        Whether ``sent`` is filled.

    Examples
    --------
    >>> LoopbackWorld(Mesh(1, 2)).run(lambda transport: transport.rank * 10)
    [0, 10]
    """

    mesh: Mesh
    timeout_s: float = 60.0
    record: bool = False
    sent: list[Sent] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._queues: dict[tuple[object, ...], SimpleQueue[bytes]] = {}
        self._board: list[Any] = [None] * self.mesh.n_chips
        self._barrier = threading.Barrier(self.mesh.n_chips)
        self.failed = threading.Event()

    def run(self, play: "Callable[[LoopbackTransport], _T]") -> list[_T]:
        """Play all chips at once and return what each returned, by rank.

        Raises
        ------
        BaseException
            What the first chip that failed raised; the others are woken.
        """
        results: list[Any] = [None] * self.mesh.n_chips
        errors: list[BaseException] = []

        def body(rank: int) -> None:
            try:
                results[rank] = play(LoopbackTransport(self, rank))
            except BaseException as error:
                errors.append(error)
                self.failed.set()
                self._barrier.abort()

        threads = [
            threading.Thread(target=body, args=(rank,), name=f"chip {rank}")
            for rank in range(self.mesh.n_chips)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
        return results

    def queue(self, *key: object) -> SimpleQueue[bytes]:
        """Return the queue of one stripe of one exchange between two chips."""
        with self._lock:
            return self._queues.setdefault(key, SimpleQueue())

    def forget(self, used: Iterable[SimpleQueue[bytes]]) -> None:
        """Drop queues whose receiver will not read them again."""
        gone = set(map(id, used))
        with self._lock:
            self._queues = {key: q for key, q in self._queues.items() if id(q) not in gone}

    def share(self, rank: int, value: object) -> list[Any]:
        """Return every rank's value on every rank."""
        try:
            self._barrier.wait(self.timeout_s)
            self._board[rank] = value
            self._barrier.wait(self.timeout_s)
            return list(self._board)
        except threading.BrokenBarrierError:
            raise CollectiveError(f"chip {self.mesh.coord(rank)}: another chip failed") from None


class LoopbackTransport:
    """One chip of a `LoopbackWorld`."""

    def __init__(self, world: LoopbackWorld, rank: int) -> None:
        self.world = world
        self.mesh = world.mesh
        self.rank = rank
        self._groups = {axis: LoopbackGroup(self, axis) for axis in Axis}

    def group(self, axis: Axis) -> "LoopbackGroup":
        """Return this chip's group along ``axis``."""
        return self._groups[axis]

    def from_root(self, compute: Callable[[], _T]) -> _T:
        """Compute on rank 0 and return the result on every rank; a UserError is raised on all."""
        outcome: tuple[_T | None, UserError | None] = (None, None)
        if self.rank == 0:
            try:
                outcome = (compute(), None)
            except UserError as error:
                outcome = (None, error)
        value, failure = self.world.share(self.rank, outcome)[0]
        if failure is not None:
            raise failure
        result: _T = value
        return result

    def agree(self, error: UserError | None) -> None:
        """Raise the first error that any rank brings, on every rank."""
        for other in self.world.share(self.rank, error):
            if other is not None:
                raise other

    def free(self) -> None:
        """Do nothing: there is nothing but memory."""

    def begin(self, what: str) -> None:
        """Do nothing: a wait without end is an error here, with its traceback."""

    def allow_waits(self, timeout_s: float) -> None:
        """Let the chips of this world wait at least so many seconds for each other."""
        self.world.timeout_s = max(self.world.timeout_s, timeout_s)

    def gather(self, value: _T) -> list[_T] | None:
        """Return every rank's value on rank 0, None elsewhere."""
        values: list[_T] = self.world.share(self.rank, value)
        return values if self.rank == 0 else None


class LoopbackGroup:
    """A row or column of a `LoopbackWorld`, as one of its chips sees it."""

    def __init__(self, transport: LoopbackTransport, axis: Axis) -> None:
        self._transport = transport
        self.axis = axis
        self.ranks = transport.mesh.group(transport.rank, axis)
        self.size = len(self.ranks)
        self.index = transport.mesh.index(transport.rank, axis)
        self._n_bound = 0

    def allocate(self, n_bytes: int) -> Bytes:
        """Return storage."""
        return np.empty(n_bytes, np.uint8)

    def bind(self, steps: Sequence[Step], *, num_links: int, label: str) -> "LoopbackExchange":
        """Set up an exchange; all members bind in the same order."""
        self._n_bound += 1
        return LoopbackExchange(
            self._transport, self, steps, num_links=num_links, label=label, number=self._n_bound
        )

    def board(self, n_bytes: int, *, in_parts: bool, num_links: int, label: str) -> MessageBoard:
        """Return a table whose rows travel."""
        return MessageBoard(self, n_bytes, in_parts=in_parts, num_links=num_links, label=label)

    def recycle(self) -> None:
        """Do nothing: storage goes with its last view."""


class LoopbackExchange:
    """Steps whose stripes go through queues."""

    def __init__(
        self,
        transport: LoopbackTransport,
        group: LoopbackGroup,
        steps: Sequence[Step],
        *,
        num_links: int,
        label: str,
        number: int,
    ) -> None:
        self._world, self._label = transport.world, label
        self._me = transport.rank
        me, axis, world = self._me, group.axis, self._world
        self._sends = [
            [
                (
                    world.queue(me, group.ranks[m.peer], axis, number, link),
                    stripe,
                    Sent(me, group.ranks[m.peer], axis, label, link, len(stripe)),
                )
                for m in step.sends
                for link, stripe in enumerate(stripes(m.data, num_links))
            ]
            + [
                # The note goes as if over a link more, and is not recorded.
                (world.queue(me, group.ranks[m.peer], axis, number, num_links), m.note, None)
                for m in step.sends
            ]
            for step in steps
        ]
        self._receives = [
            [
                (
                    world.queue(group.ranks[m.peer], me, axis, number, link),
                    stripe,
                    group.ranks[m.peer],
                )
                for m in step.receives
                for link, stripe in enumerate(stripes(m.data, num_links))
            ]
            + [
                (
                    world.queue(group.ranks[m.peer], me, axis, number, num_links),
                    m.note,
                    group.ranks[m.peer],
                )
                for m in step.receives
            ]
            for step in steps
        ]

    def begin(self) -> None:
        """Do nothing: queues need no posted receives."""

    def step(self, number: int) -> None:
        """Put this step's sends and get its receives."""
        for channel, stripe, note in self._sends[number]:
            channel.put(stripe.tobytes())
            if self._world.record and note is not None:
                self._world.sent.append(note)
        for channel, stripe, source in self._receives[number]:
            stripe[...] = np.frombuffer(self._get(channel, source, number), np.uint8)

    def end(self) -> None:
        """Do nothing: what was sent has been copied."""

    def free(self) -> None:
        """Drop the queues of this chip's receives."""
        self._world.forget(channel for step in self._receives for channel, _, _ in step)

    def _get(self, channel: SimpleQueue[bytes], source: int, number: int) -> bytes:
        waited_s = 0.0
        coord = self._world.mesh.coord
        while True:
            try:
                return channel.get(timeout=0.2)
            except Empty:
                waited_s += 0.2
            if self._world.failed.is_set():
                raise CollectiveError(f"chip {coord(self._me)}: another chip failed") from None
            if waited_s > self._world.timeout_s:
                raise CollectiveError(
                    f"chip {coord(self._me)} waited {waited_s:.0f} s for chip {coord(source)} "
                    f"in {self._label}, step {number}"
                )
