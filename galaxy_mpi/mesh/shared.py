"""Neighbours on one host: write straight into each other's memory, and ring a bell.

As the chips write into a remote L1 and raise a semaphore, a chip here copies its message into the
memory of the receiver and adds one to an event counter that the receiver reads; the read sleeps
until there is something. With 32 ranks on a few cores that is what counts: a rank that waits
costs nothing.

Memory is an anonymous file (``memfd``) and a bell is an ``eventfd``, both without a name: they are
handed to the neighbours over a socket once, at set-up, and they vanish with the last process that
holds them, however it ends. Nothing lies in /dev/shm, and its size limits nothing.

When is a receive buffer free to be written again? A collective's result depends on every member,
so whoever has finished one knows that all others have entered it, and so have left the one
before. Buffers are double and taken in turn per axis (`galaxy_mpi.ccl.CCL`): one that is written
now was last read two collectives ago. No barrier is needed. When a mode ends its storage is used
again by the next one: there it is binding, in which the members exchange their places, that nobody
passes before all have left the old mode.
"""

import mmap
import os
import socket
import sys
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from galaxy_mpi.arrays import Bytes
from galaxy_mpi.errors import CollectiveError, MeshError
from galaxy_mpi.mesh.meeting import MEETING_BYTES, Meeting, can_meet
from galaxy_mpi.mesh.transport import Exchange, Step

__all__ = [
    "CommonFile",
    "CommonMemory",
    "Neighbours",
    "SharedExchange",
    "SharedMemory",
    "is_available",
]

ARENA_BYTES = 1 << 32
"""Address space per chip and axis. Only pages that are written take memory."""

_ALIGNMENT = 64


def is_available() -> bool:
    """Return whether this system has anonymous memory files and event counters."""
    return sys.platform == "linux" and hasattr(os, "eventfd") and can_meet()


class _Arena:
    """Memory that is given out from its beginning on, and taken back as a whole."""

    def __init__(self, memory: Bytes, first: int = 0) -> None:
        self.bytes, self._first, self._used = memory, first, first

    def allocate(self, n_bytes: int) -> Bytes:
        """Return storage that others on this host can reach.

        Raises
        ------
        CollectiveError
            If the address space is used up.
        """
        start = self._used
        self._used += -(-n_bytes // _ALIGNMENT) * _ALIGNMENT
        if self._used > len(self.bytes):
            raise CollectiveError(f"more than {len(self.bytes)} bytes of buffers on an axis")
        return self.bytes[start : start + n_bytes]

    def recycle(self) -> None:
        """Take back all that was allocated: nobody reads or writes it any more."""
        self._used = self._first


class SharedMemory(_Arena):
    """One chip's memory for one axis, and its bells.

    Parameters
    ----------
    peers : sequence of int
        Members of the group on this host, by index, without this chip.
    """

    def __init__(self, peers: Sequence[int]) -> None:
        self.file, memory = _reserve()
        super().__init__(memory)
        self.bells = {peer: os.eventfd(0, os.EFD_CLOEXEC | os.EFD_SEMAPHORE) for peer in peers}

    def offset(self, data: Bytes) -> int:
        """Return where a view of the memory begins."""
        start = int(data.__array_interface__["data"][0] - self.bytes.__array_interface__["data"][0])
        assert 0 <= start <= ARENA_BYTES - data.nbytes, "not a view of the shared memory"
        return start

    def close(self) -> None:
        """Close the files; mapped memory goes with its last view."""
        for descriptor in (self.file, *self.bells.values()):
            os.close(descriptor)


class CommonFile:
    """Memory that one member of a group offers to all."""

    def __init__(self) -> None:
        self.file, self.memory = _reserve()

    def close(self) -> None:
        """Close the file; others have it by now."""
        os.close(self.file)


class CommonMemory(_Arena):
    """Memory that all members of a group map, with their meeting; all of them on this host.

    Every member allocates the same in the same order, and so finds it at the same place.

    Parameters
    ----------
    memory : Bytes
        The whole.
    index, size : int
    """

    def __init__(self, memory: Bytes, index: int, size: int) -> None:
        super().__init__(memory, MEETING_BYTES)
        self.meeting = Meeting(memory[:MEETING_BYTES], index, size)

    def recycle(self) -> None:
        """Take back all that was allocated, when nobody reads it any more."""
        super().recycle()
        self.meeting.meet()


def _reserve() -> tuple[int, Bytes]:
    """Return an anonymous file of the size of an arena, and its memory.

    Raises
    ------
    MeshError
        If a limit of this user forbids it.
    """
    file = -1
    try:
        file = os.memfd_create("galaxy_mpi", os.MFD_CLOEXEC)
        os.ftruncate(file, ARENA_BYTES)
        return file, _map(file)
    except (OSError, MemoryError) as error:
        if file >= 0:
            os.close(file)
        raise MeshError(
            f"no {ARENA_BYTES >> 30} GiB of address space for shared memory: "
            f"{getattr(error, 'strerror', None) or error}; lift `ulimit -v` and `ulimit -f`, or "
            f"take --transport mpi"
        ) from None


def _map(file: int) -> Bytes:
    return np.frombuffer(mmap.mmap(file, ARENA_BYTES), np.uint8)


class Neighbours:
    """The memories and bells of the other members of a group on this host.

    Parameters
    ----------
    own : SharedMemory
    index : int
        This chip's place in the group.
    peers : sequence of int
        The others on this host.
    name : str
        Common to the group, different for any two groups alive at a time on this host.
    barrier : callable
        Returns when all members of the group have called it.
    common : CommonFile or None
        Memory that this chip offers to all; one of the group does, if all are on this host.

    Attributes
    ----------
    common : Bytes or None
        The memory that one of the group offered.
    """

    def __init__(
        self,
        own: SharedMemory,
        index: int,
        peers: Sequence[int],
        *,
        name: str,
        barrier: Callable[[], None],
        common: "CommonFile | None",
    ) -> None:
        self.memory: dict[int, Bytes] = {}
        self.bells: dict[int, int] = {}
        self.common = None if common is None else common.memory
        sent = [] if common is None else [common.file]
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(_address(name, index))
            listener.listen(len(peers) + 1)
            barrier()
            for peer in peers:
                with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
                    line.connect(_address(name, peer))
                    files = [own.file, own.bells[peer], *sent]
                    socket.send_fds(line, [index.to_bytes(2, "little")], files)
            for _ in peers:
                line, _address_of_peer = listener.accept()
                with line:
                    sender, files, _flags, _from = socket.recv_fds(line, 2, 3)
                    member = int.from_bytes(sender, "little")
                    self.memory[member], self.bells[member] = _map(files[0]), files[1]
                    os.close(files[0])
                    for file in files[2:]:
                        self.common = _map(file)
                        os.close(file)

    def close(self) -> None:
        """Close the bells."""
        for bell in self.bells.values():
            os.close(bell)


def _address(name: str, index: int) -> str:
    """Return an address in Linux's abstract namespace: no file, gone with the socket."""
    return f"\0galaxy_mpi.{name}.{index}"


class Waiter(Protocol):
    """Who is told what this chip waits for (the watchdog)."""

    waiting: Any


class SharedExchange:
    """Steps as copies into the neighbours' memory; what goes to other hosts is left to MPI.

    Parameters
    ----------
    own, neighbours
        This chip's memory and the others'.
    steps : sequence of Step
    offsets : sequence of dict
        For each step: where in a peer's memory the data and the note to that peer go.
    remote : Exchange or None
        The part of the steps that concerns members on other hosts.
    watchdog : Waiter
    describe : callable
        Says, given a step and seconds, who waits for whom.
    """

    def __init__(
        self,
        own: SharedMemory,
        neighbours: Neighbours,
        steps: Sequence[Step],
        offsets: Sequence[dict[int, tuple[int, int]]],
        *,
        remote: Exchange | None,
        watchdog: Waiter,
        describe: Callable[[int, float], str],
    ) -> None:
        self._remote, self._watchdog, self.describe = remote, watchdog, describe
        self._sends: list[list[tuple[Bytes, Bytes, Bytes, Bytes, int]]] = []
        self._receives: list[list[int]] = []
        for step, places in zip(steps, offsets, strict=True):
            sends = []
            for message in step.sends:
                if message.peer in neighbours.memory:
                    start, start_note = places[message.peer]
                    memory, bell = neighbours.memory[message.peer], neighbours.bells[message.peer]
                    target = memory[start : start + message.data.nbytes]
                    note_target = memory[start_note : start_note + message.note.nbytes]
                    sends.append((target, message.data, note_target, message.note, bell))
            self._sends.append(sends)
            self._receives.append([own.bells[m.peer] for m in step.receives if m.peer in own.bells])
        self._tickets = [(self, number) for number in range(len(steps))]

    def begin(self) -> None:
        """Post the receives from other hosts."""
        if self._remote is not None:
            self._remote.begin()

    def step(self, number: int) -> None:
        """Copy this step's messages to the neighbours, then sleep until theirs are here."""
        for target, data, note_target, note, bell in self._sends[number]:
            target[...] = data
            note_target[...] = note
            os.eventfd_write(bell, 1)
        if self._remote is not None:
            self._remote.step(number)
        self._watchdog.waiting = self._tickets[number]
        for bell in self._receives[number]:
            os.eventfd_read(bell)
        self._watchdog.waiting = None

    def end(self) -> None:
        """Wait for the messages to other hosts; copies are done when they are made."""
        if self._remote is not None:
            self._remote.end()

    def free(self) -> None:
        """Release the requests to other hosts."""
        if self._remote is not None:
            self._remote.free()
