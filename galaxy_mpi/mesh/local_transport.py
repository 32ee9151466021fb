"""All chips of a mesh in this process: no MPI, no threads, no waiting."""

from collections.abc import Callable
from typing import TypeVar

from galaxy_mpi.errors import UserError
from galaxy_mpi.mesh.local_plane import LocalPlane
from galaxy_mpi.mesh.mesh import Axis, Mesh

__all__ = ["LocalTransport"]

_T = TypeVar("_T")


class LocalTransport:
    """See `galaxy_mpi.mesh.transport.Transport`.

    Examples
    --------
    >>> transport = LocalTransport(Mesh(2, 2))
    >>> transport.chips, transport.plane(Axis.COLUMN).size
    ((0, 1, 2, 3), 2)
    """

    def __init__(self, mesh: Mesh) -> None:
        self.mesh, self.rank, self.n_ranks = mesh, 0, 1
        self.chips = tuple(range(mesh.n_chips))
        self._planes = {axis: LocalPlane(mesh, axis) for axis in Axis}

    def plane(self, axis: Axis) -> LocalPlane:
        """Return what joins the chips along ``axis``."""
        return self._planes[axis]

    def from_root(self, compute: Callable[[], _T]) -> _T:
        """Compute and return it."""
        return compute()

    def agree(self, error: UserError | None) -> None:
        """Raise the error, if there is one."""
        if error is not None:
            raise error

    def gather(self, value: _T) -> list[_T]:
        """Return this process's value."""
        return [value]

    def begin(self, what: str) -> None:
        """Do nothing: there are no other processes."""

    def allow_waits(self, timeout_s: float) -> None:
        """Do nothing: there are no other processes."""

    def leave_waits(self) -> None:
        """Do nothing: nobody waits."""

    def free(self) -> None:
        """Do nothing: there is only memory."""
