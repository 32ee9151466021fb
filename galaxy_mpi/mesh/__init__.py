"""The grid of chips, and the transports that join them.

`Mesh` is arithmetic on ranks. A `Transport` joins the processes of a run: over MPI
(`galaxy_mpi.mesh.mpi`, the one module that imports mpi4py), or not at all where one process plays
all chips (`galaxy_mpi.mesh.local_transport`). Its planes (`galaxy_mpi.mesh.plane`) carry what the
chips of rows and columns send each other.
"""

from galaxy_mpi.mesh.mesh import Axis, Mesh
from galaxy_mpi.mesh.transport import Transport

__all__ = ["Axis", "Mesh", "Transport"]
