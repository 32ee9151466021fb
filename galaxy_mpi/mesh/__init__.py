"""The grid of chips, and the transports that join them.

`Mesh` is arithmetic on ranks. A `Transport` carries bytes between chips: over MPI
(`galaxy_mpi.mesh.mpi`, the one module that imports mpi4py) or between threads of one process
(`galaxy_mpi.mesh.loopback`).
"""

from typing import TYPE_CHECKING, Any

from galaxy_mpi.mesh.mesh import Axis, Mesh
from galaxy_mpi.mesh.transport import Board, Exchange, Group, Message, Step, Transport, stripes

if TYPE_CHECKING:
    from galaxy_mpi.mesh.loopback import LoopbackWorld

__all__ = [
    "Axis",
    "Board",
    "Exchange",
    "Group",
    "LoopbackWorld",
    "Mesh",
    "Message",
    "Step",
    "Transport",
    "stripes",
]


def __getattr__(name: str) -> Any:
    """Import what only tests and examples use when it is asked for: 32 ranks need not."""
    if name == "LoopbackWorld":
        from galaxy_mpi.mesh.loopback import LoopbackWorld

        return LoopbackWorld
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
