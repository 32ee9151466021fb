"""An emulator of a 32-chip Tenstorrent Galaxy over MPI: one rank plays one chip.

Importing this package starts nothing: MPI begins in `galaxy_mpi.mesh.connect`.
"""

__all__ = ["__version__"]

__version__ = "0.1.0"
