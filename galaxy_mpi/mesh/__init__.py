"""The grid of chips, and the transports that join them.

`Mesh` is arithmetic on ranks. A `Transport` carries bytes between chips: over MPI
(`galaxy_mpi.mesh.mpi`, the one module that imports mpi4py) or between threads of one process
(`galaxy_mpi.mesh.loopback`).
"""

from galaxy_mpi.mesh.loopback import LoopbackWorld
from galaxy_mpi.mesh.mesh import Axis, Mesh
from galaxy_mpi.mesh.transport import Board, Exchange, Group, Message, Step, Transport, stripes

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
