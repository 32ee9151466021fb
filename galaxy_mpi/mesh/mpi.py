"""The MPI transport: sub-communicators of rows and columns. The only importer of mpi4py.

Messages are persistent requests, bound once per buffer (`galaxy_mpi.mesh.requests`).

Members of a group on the same host may use shared memory instead (`galaxy_mpi.mesh.shared`),
member by member; results are the same bits.

Only the main thread calls MPI (``MPI_THREAD_FUNNELED``). No MPI collective carries data of the
model; the few used here (`from_root`, `agree`, `gather`) belong to set-up and to reports.

A wait inside MPI cannot be given a timeout, so a watchdog thread looks once a second whether the
main thread is still in the same wait, and ends the rank with a line that names both chips.
"""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import mpi4py
import numpy as np

from galaxy_mpi.arrays import Bytes
from galaxy_mpi.errors import ConfigError, UserError
from galaxy_mpi.mesh.board import MessageBoard, SharedBoard
from galaxy_mpi.mesh.mesh import Axis, Mesh
from galaxy_mpi.mesh.requests import MpiExchange, describe_wait
from galaxy_mpi.mesh.shared import (
    CommonFile,
    CommonMemory,
    Neighbours,
    SharedExchange,
    SharedMemory,
    is_available,
)
from galaxy_mpi.mesh.transport import Board, Exchange, Step
from galaxy_mpi.mesh.watchdog import WAIT_TIMEOUT_S, Watchdog
from galaxy_mpi.mesh.world import check_world

__all__ = ["TRANSPORTS", "MpiTransport", "abort", "world_rank"]

_T = TypeVar("_T")

TRANSPORTS = ("auto", "mpi", "shared")
"""``auto`` uses shared memory wherever two members of a group are on one host."""


def _start_mpi() -> Any:
    """Import MPI, which starts it, with the thread level that this package needs."""
    mpi4py.rc.thread_level = "funneled"
    if not {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK"} & set(os.environ):
        # Started without mpirun: nobody would remove the message queue that a lone Open MPI
        # process leaves on disk, and it needs none.
        os.environ.setdefault("OMPI_MCA_btl", "self")
    from mpi4py import MPI

    return MPI


def world_rank() -> int:
    """Return this process's rank, starting MPI if need be."""
    rank: int = _start_mpi().COMM_WORLD.rank
    return rank


def abort() -> None:
    """End all ranks of the run at once."""
    sys.stdout.flush()
    sys.stderr.flush()
    _start_mpi().COMM_WORLD.Abort(1)


class MpiTransport:
    """One chip's connection to all others over MPI.

    Parameters
    ----------
    mesh : Mesh
    comm : mpi4py.MPI.Comm, optional
        Communicator of ``mesh.n_chips`` ranks; the world by default. Duplicated.
    kind : str
        One of ``TRANSPORTS``.

    Raises
    ------
    MeshError
        If the communicator has another number of ranks.
    ConfigError
        If ``kind`` is unknown, or shared memory was asked for and cannot be had.
    """

    def __init__(
        self,
        mesh: Mesh,
        comm: Any = None,
        *,
        kind: str = "auto",
        timeout_s: float = WAIT_TIMEOUT_S,
    ) -> None:
        if kind not in TRANSPORTS:
            raise ConfigError(f"no transport {kind!r}; choose {', '.join(TRANSPORTS)}")
        self._mpi = _start_mpi()
        world = self._mpi.COMM_WORLD if comm is None else comm
        check_world(mesh, world.size, dict(os.environ))
        self.mesh = mesh
        self._comm = world.Dup()
        self.rank: int = self._comm.rank
        self._watchdog = Watchdog(timeout_s)
        self._groups = {
            axis: MpiGroup(self._mpi, self._comm, mesh, self.rank, axis, self._watchdog, kind)
            for axis in Axis
        }

    @classmethod
    @contextmanager
    def connect(
        cls, mesh: Mesh, comm: Any = None, *, kind: str = "auto"
    ) -> Iterator["MpiTransport"]:
        """Yield a transport and free its communicators afterwards."""
        transport = cls(mesh, comm, kind=kind)
        try:
            yield transport
        finally:
            transport._watchdog.close()
        transport.free()

    def group(self, axis: Axis) -> "MpiGroup":
        """Return this chip's group along ``axis``."""
        return self._groups[axis]

    def from_root(self, compute: Callable[[], _T]) -> _T:
        """Compute on rank 0 and return the result on every rank; a UserError is raised on all."""
        outcome: Any = None
        if self.rank == 0:
            try:
                outcome = (compute(), None)
            except UserError as error:
                outcome = (None, error)
        value, failure = self._comm.bcast(outcome)
        if failure is not None:
            raise failure
        result: _T = value
        return result

    def agree(self, error: UserError | None) -> None:
        """Raise the first error that any rank brings, on every rank."""
        for other in self._comm.allgather(error):
            if other is not None:
                raise other

    def gather(self, value: _T) -> list[_T] | None:
        """Return every rank's value on rank 0, None elsewhere."""
        values: list[_T] | None = self._comm.gather(value)
        return values

    def free(self) -> None:
        """Free the communicators. Collective: every rank calls it."""
        self._watchdog.close()
        for group in self._groups.values():
            group.free()
        self._comm.Free()


class MpiGroup:
    """A row or column as a sub-communicator, with shared memory between members on one host."""

    def __init__(
        self, mpi: Any, comm: Any, mesh: Mesh, rank: int, axis: Axis, watchdog: Watchdog, kind: str
    ) -> None:
        self._mpi = mpi
        row, col = mesh.coord(rank)
        color, key = (col, row) if axis is Axis.ROWS else (row, col)
        self.comm = comm.Split(color, key)
        self.size: int = self.comm.size
        self.index: int = self.comm.rank
        self.axis = axis
        self.coords = [mesh.coord(r) for r in mesh.group(rank, axis)]
        self._watchdog = watchdog
        self._n_bound = 0
        self._memory: SharedMemory | None = None
        self._common: CommonMemory | None = None
        local = self._members_on_this_host(kind)
        if local:
            self._share(local)

    def allocate(self, n_bytes: int) -> Bytes:
        """Return storage, in shared memory where the group has any."""
        if self._memory is None:
            return np.empty(n_bytes, np.uint8)
        return self._memory.allocate(n_bytes)

    def board(self, n_bytes: int, *, in_parts: bool, num_links: int, label: str) -> Board:
        """Return a table, in memory of the group where it has any."""
        common = self._common
        if common is None:
            return MessageBoard(self, n_bytes, in_parts=in_parts, num_links=num_links, label=label)
        where, meeting = f"{label} over {self.axis.name}", common.meeting

        def describe(step: int, waited_s: float) -> str:
            missing = [self.coords[member] for member in meeting.missing()]
            return describe_wait(self.coords[self.index], missing, where, step, waited_s)

        memory = common.allocate(SharedBoard.n_bytes(self.size, n_bytes))
        return SharedBoard(
            memory, self.size, n_bytes, meeting, watchdog=self._watchdog, describe=describe
        )

    def bind(self, steps: Sequence[Step], *, num_links: int, label: str) -> Exchange:
        """Set up persistent requests, or the places in the neighbours' memory to copy to."""
        self._n_bound += 1
        where = f"{label} over {self.axis.name}"

        def describe(step: int, waited_s: float) -> str:
            peers = sorted({self.coords[message.peer] for message in steps[step].receives})
            return describe_wait(self.coords[self.index], peers, where, step, waited_s)

        def requests(steps: Sequence[Step]) -> MpiExchange:
            return MpiExchange(
                self._mpi,
                self.comm,
                self._watchdog,
                steps,
                num_links=num_links,
                number=self._n_bound,
                describe=describe,
            )

        if self._memory is None:
            return requests(steps)
        everybody_is_local = len(self._neighbours.memory) == self.size - 1
        return SharedExchange(
            self._memory,
            self._neighbours,
            steps,
            self._offsets(self._memory, steps),
            remote=None if everybody_is_local else requests([self._remote(s) for s in steps]),
            watchdog=self._watchdog,
            describe=describe,
        )

    def recycle(self) -> None:
        """Take all storage back; whoever binds next waits until all members have done so."""
        self._n_bound = 0  # numbers become tags, which are limited
        if self._memory is not None:
            self._memory.recycle()
        if self._common is not None:
            self._common.recycle()

    def _share(self, local: Sequence[int]) -> None:
        """Exchange memory with the members on this host; one of all of them if all are here."""
        offered = None
        if len(local) == self.size - 1 and self.index == 0:
            offered = CommonFile()
            CommonMemory(offered.memory, 0, self.size).meeting.prepare()
        name = self.comm.bcast(os.urandom(8).hex())
        self._memory = SharedMemory(local)
        self._neighbours = Neighbours(
            self._memory,
            self.index,
            local,
            name=name,
            barrier=self.comm.Barrier,
            common=offered,
        )
        if offered is not None:
            offered.close()
        if self._neighbours.common is not None:
            self._common = CommonMemory(self._neighbours.common, self.index, self.size)

    def _offsets(
        self, memory: SharedMemory, steps: Sequence[Step]
    ) -> list[dict[int, tuple[int, int]]]:
        """Return, for each step, where in each peer's memory data and note to it go."""
        mine = np.full((len(steps), self.size, 2), -1, np.int64)
        for receives, step in zip(mine, steps, strict=True):
            for message in step.receives:
                if self._is_local(message.peer):
                    assert receives[message.peer, 0] < 0, "two messages of one peer in one step"
                    parts = message.data, message.note
                    receives[message.peer] = [memory.offset(part) for part in parts]
        everyone = np.empty((self.size, *mine.shape), np.int64)
        self.comm.Allgather(mine, everyone)
        return [
            {m.peer: tuple(everyone[m.peer, number, self.index].tolist()) for m in step.sends}
            for number, step in enumerate(steps)
        ]

    def free(self) -> None:
        """Free the sub-communicator and the shared memory."""
        if self._memory is not None:
            self._neighbours.close()
            self._memory.close()
        self.comm.Free()

    def _members_on_this_host(self, kind: str) -> list[int]:
        """Return the other members that shared memory can reach, by index."""
        if kind == "mpi" or self.size == 1:
            return []
        if not is_available():
            if kind == "shared":
                raise ConfigError("--transport shared needs Linux; use --transport mpi")
            return []
        host = self.comm.Split_type(self._mpi.COMM_TYPE_SHARED)
        local: list[int] = host.allgather(self.index)
        host.Free()
        if kind == "shared" and len(local) < self.size:
            raise ConfigError(
                f"--transport shared: only {len(local)} of the {self.size} chips along "
                f"{self.axis.name} are on one host; use --transport auto"
            )
        return [member for member in local if member != self.index]

    def _is_local(self, peer: int) -> bool:
        return self._memory is not None and peer in self._neighbours.memory

    def _remote(self, step: Step) -> Step:
        return Step(
            tuple(m for m in step.sends if not self._is_local(m.peer)),
            tuple(m for m in step.receives if not self._is_local(m.peer)),
        )
