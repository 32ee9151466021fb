"""A row or column over MPI, of a library that `galaxy_mpi.mesh.mpi` hands in.

Members on the same host share memory; what goes to others are messages.
"""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from galaxy_mpi.arrays import Bytes
from galaxy_mpi.errors import ConfigError
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
from galaxy_mpi.mesh.watchdog import Watchdog

__all__ = ["MpiGroup"]


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
