"""Messages as persistent requests: created once, then only started.

A program of 80 layers has hundreds of collectives, but most use the same memory. Collectives that
do share their requests, which are freed with the last program that uses them.

`galaxy_mpi.mesh.mpi` passes in the MPI library.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from galaxy_mpi.errors import CollectiveError

if TYPE_CHECKING:
    from galaxy_mpi.arrays import Array

__all__ = ["Message", "MessageRequests", "RequestCache", "place_of"]


class Message(NamedTuple):
    """Bytes to or from one process."""

    rank: int
    tag: int
    is_send: bool
    pieces: tuple[tuple[int, int], ...]
    """(address, bytes) of each piece; together they are one message."""


def place_of(memory: "Array") -> tuple[int, int]:
    """Return (address, bytes) of a contiguous array."""
    assert memory.flags.c_contiguous, "a piece of a message must be contiguous"
    return memory.__array_interface__["data"][0], memory.nbytes


class MessageRequests:
    """Rounds of messages.

    The receives of all rounds are posted with the first round, so that early messages find their
    buffer. All sends are waited for in the last.

    Parameters
    ----------
    mpi : module
        ``mpi4py.MPI``.
    comm : mpi4py.MPI.Comm
    rounds : sequence of sequence of Message
    kept : object
        Keeps the memory mapped.
    """

    def __init__(
        self, mpi: Any, comm: Any, rounds: Sequence[Sequence[Message]], kept: object
    ) -> None:
        self._kept, self._errors = kept, mpi.Exception

        def start(requests: list[Any]) -> Callable[[], object]:
            if len(requests) == 1:  # a hop: a single request is started and awaited faster
                return requests[0].Start  # type: ignore[no-any-return]
            return partial(mpi.Prequest.Startall, requests)

        def wait(requests: list[Any]) -> Callable[[], object]:
            if len(requests) == 1:
                return requests[0].Wait  # type: ignore[no-any-return]
            return partial(mpi.Request.Waitall, requests)

        def request(message: Message) -> Any:
            lengths = [n_bytes for _, n_bytes in message.pieces]
            kind = mpi.BYTE.Create_hindexed(lengths, [place for place, _ in message.pieces])
            kind.Commit()
            make = comm.Send_init if message.is_send else comm.Recv_init
            made = make([mpi.BOTTOM, 1, kind], message.rank, message.tag)
            kind.Free()  # MPI keeps it until the request is freed
            return made

        sends = [[request(m) for m in of_round if m.is_send] for of_round in rounds]
        receives = [[request(m) for m in of_round if not m.is_send] for of_round in rounds]
        self._all = [r for of_round in (*receives, *sends) for r in of_round]
        everything = [r for of_round in receives for r in of_round]
        self._starts = [start([*everything, *sends[0]]), *(start(r) for r in sends[1:])]
        sent = [r for of_round in sends for r in of_round]
        self._waits = [*(wait(r) for r in receives[:-1]), wait([*receives[-1], *sent])]
        self._rounds = list(zip(self._starts, self._waits, strict=True))
        self._n_rounds = len(self._rounds)
        self.n_started = self.n_finished = 0

    def start(self, number: int) -> None:
        """Start the messages of a round."""
        self.n_started += 1
        self._starts[number]()

    def finish(self, number: int) -> bool:
        """Wait for the messages of a round; return False if one was larger than its buffer."""
        try:
            self._waits[number]()
        except self._errors:
            return False
        self.n_finished += 1
        return True

    def calls(self, number: int) -> tuple[Callable[[], object], Callable[[], object], Any]:
        """Return how a round is started and awaited, and the error if a message is too large.

        The caller counts both in ``n_started`` and ``n_finished``.
        """
        return self._starts[number], self._waits[number], self._errors

    def run(self) -> bool:
        """Start and finish all rounds, as nothing is computed between them; see `finish`."""
        self.n_started += self._n_rounds
        try:
            for start, wait in self._rounds:
                start()
                wait()
        except self._errors:
            return False
        self.n_finished += self._n_rounds
        return True

    def free(self) -> None:
        """Free the requests, unless a failed collective left some that never complete."""
        if self.n_started == self.n_finished and self.n_started % self._n_rounds == 0:
            for request in self._all:
                request.Free()
        self._all.clear()


class RequestCache:
    """The requests of a plane, by address of their data.

    Parameters
    ----------
    mpi, comm
        As for `MessageRequests`.
    """

    def __init__(self, mpi: Any, comm: Any) -> None:
        self._mpi, self._comm = mpi, comm
        self._requests: dict[object, MessageRequests] = {}
        self._n_uses: dict[object, int] = {}
        self._most: int = comm.Get_attr(mpi.TAG_UB)

    def __len__(self) -> int:
        return len(self._requests)

    def use(self, rounds: Sequence[Sequence[Message]], kept: object) -> MessageRequests:
        """Return the requests of some messages; pass them to `release` later."""
        key = tuple(tuple(messages) for messages in rounds)
        if any(message.tag > self._most for messages in rounds for message in messages):
            raise CollectiveError(f"this MPI allows at most {self._most} message tags per group")
        if key not in self._requests:
            self._requests[key] = MessageRequests(self._mpi, self._comm, key, kept)
        self._n_uses[key] = self._n_uses.get(key, 0) + 1
        return self._requests[key]

    def release(self, requests: MessageRequests) -> None:
        """Release what `use` returned."""
        key = next(k for k, made in self._requests.items() if made is requests)
        self._n_uses[key] -= 1
        if not self._n_uses[key]:
            del self._n_uses[key]
            self._requests.pop(key).free()

    def free(self) -> None:
        """Free all requests and the communicator."""
        for requests in self._requests.values():
            requests.free()
        self._requests.clear()
        self._comm.Free()
