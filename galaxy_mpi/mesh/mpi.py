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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import mpi4py

from galaxy_mpi.errors import ConfigError, UserError
from galaxy_mpi.mesh.mesh import Axis, Mesh
from galaxy_mpi.mesh.mpi_group import MpiGroup
from galaxy_mpi.mesh.placement import Placement
from galaxy_mpi.mesh.plane import Plane
from galaxy_mpi.mesh.planes import Planes
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
        Communicator of ``mesh.n_chips / chips_per_rank`` ranks; the world by default. Duplicated.
    kind : str
        One of ``TRANSPORTS``.
    chips_per_rank : int
        Chips that each process plays, a contiguous block of them.

    Attributes
    ----------
    chips : tuple of int
        Ranks of the chips of this process, in the mesh.
    rank, n_ranks : int
        Of this process, and how many there are.

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
        chips_per_rank: int = 1,
    ) -> None:
        if kind not in TRANSPORTS:
            raise ConfigError(f"no transport {kind!r}; choose {', '.join(TRANSPORTS)}")
        self._mpi = _start_mpi()
        world = self._mpi.COMM_WORLD if comm is None else comm
        check_world(mesh, world.size, dict(os.environ), chips_per_rank)
        self.mesh, self._kind = mesh, kind
        self._comm = world.Dup()
        self.rank: int = self._comm.rank
        self.n_ranks: int = self._comm.size
        placement = Placement(mesh, chips_per_rank)
        self.chips = placement.chips(self.rank)
        self._planes = Planes(self._mpi, self._comm, placement, kind)
        self._watchdog = Watchdog(timeout_s)
        self._groups: dict[Axis, MpiGroup] = {}

    @classmethod
    @contextmanager
    def connect(
        cls, mesh: Mesh, comm: Any = None, *, kind: str = "auto", chips_per_rank: int = 1
    ) -> Iterator["MpiTransport"]:
        """Yield a transport and free its communicators afterwards."""
        transport = cls(mesh, comm, kind=kind, chips_per_rank=chips_per_rank)
        try:
            yield transport
        finally:
            transport._watchdog.close()
        transport.free()

    def group(self, axis: Axis) -> "MpiGroup":
        """Return this chip's group along ``axis``. Collective when it is asked for first."""
        if not self._groups:
            self._groups = {
                a: MpiGroup(
                    self._mpi, self._comm, self.mesh, self.rank, a, self._watchdog, self._kind
                )
                for a in Axis
            }
        return self._groups[axis]

    def plane(self, axis: Axis) -> Plane:
        """Return what joins this process's chips with others along ``axis``."""
        return self._planes[axis]

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
        self._planes.free()
        self._comm.Free()
