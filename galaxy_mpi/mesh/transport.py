"""What joins the processes of a run: planes for its programs, and a few calls for set-up."""

from collections.abc import Callable
from typing import Protocol, TypeVar

from galaxy_mpi.errors import UserError
from galaxy_mpi.mesh.mesh import Axis, Mesh
from galaxy_mpi.mesh.plane import Plane

__all__ = ["Transport"]

_T = TypeVar("_T")


class Transport(Protocol):
    """A process's connection to all others: MPI's, or none where all chips are in one process."""

    @property
    def mesh(self) -> Mesh:
        """The mesh."""

    @property
    def chips(self) -> tuple[int, ...]:
        """Ranks, in the mesh, of the chips that this process plays."""

    @property
    def rank(self) -> int:
        """Of this process."""

    @property
    def n_ranks(self) -> int:
        """How many processes there are."""

    def plane(self, axis: Axis) -> Plane:
        """Return what joins this process's chips with others along ``axis``."""

    def from_root(self, compute: Callable[[], _T]) -> _T:
        """Compute on rank 0 and return the result on every rank; a UserError is raised on all."""

    def agree(self, error: UserError | None) -> None:
        """Raise the first error that any rank brings, on every rank. For set-up, not for steps."""

    def gather(self, value: _T) -> list[_T] | None:
        """Return every rank's value on rank 0, None elsewhere. For reports, not for steps."""

    def begin(self, what: str) -> None:
        """Say what this process is about now, for the message of a wait without end."""

    def allow_waits(self, timeout_s: float) -> None:
        """Let this process wait so many seconds for others, if it would not."""

    def free(self) -> None:
        """Release the connection. Collective: every rank calls it."""
