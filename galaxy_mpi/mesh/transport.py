"""What connects the processes of a run: planes for programs, and a few calls for set-up."""

from collections.abc import Callable
from typing import Protocol, TypeVar

from galaxy_mpi.errors import ConfigError, UserError, common
from galaxy_mpi.mesh.mesh import Axis, Mesh
from galaxy_mpi.mesh.plane import Plane

__all__ = ["TRANSPORTS", "Transport", "check_transport"]

_T = TypeVar("_T")

TRANSPORTS = ("auto", "mpi", "shared")
"""``auto`` uses shared memory wherever two members of a group are on one host."""


def check_transport(kind: str) -> None:
    """Raise if there is no such transport.

    Raises
    ------
    ConfigError
        The same on all ranks.
    """
    if kind not in TRANSPORTS:
        raise common(ConfigError(f"no transport {kind!r}; choose {', '.join(TRANSPORTS)}"))


class Transport(Protocol):
    """A process's connection to all others; trivial if all chips are in one process."""

    @property
    def mesh(self) -> Mesh:
        """The mesh."""

    @property
    def chips(self) -> tuple[int, ...]:
        """Mesh ranks of the chips that this process plays."""

    @property
    def rank(self) -> int:
        """Rank of this process."""

    @property
    def n_ranks(self) -> int:
        """Number of processes."""

    def plane(self, axis: Axis) -> Plane:
        """Return what connects this process's chips with others along ``axis``."""

    def from_root(self, compute: Callable[[], _T]) -> _T:
        """Compute on rank 0 and return the result on every rank; a UserError is raised on all."""

    def agree(self, error: UserError | None) -> None:
        """Raise the first error of any rank on every rank. For set-up and binding, not steps."""

    def gather(self, value: _T) -> list[_T] | None:
        """Return every rank's value on rank 0, None elsewhere. For reports, not for steps."""

    def begin(self, what: str) -> None:
        """Describe what this process is doing, for the message of a wait that times out."""

    def allow_waits(self, timeout_s: float) -> None:
        """Raise the time limit of waits to at least so many seconds."""

    def leave_waits(self) -> None:
        """Let no watchdog count from now on: this rank writes a report and then ends the run."""

    def free(self) -> None:
        """Release the connection. Collective: every rank calls it."""
