"""An emulator of a 32-chip Tenstorrent Galaxy over MPI: one rank plays one chip.

Importing this package starts nothing and loads nothing: MPI begins in `galaxy_mpi.mesh.connect`,
and what is named here is loaded when it is first used::

    from galaxy_mpi import Generator, create_model
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from galaxy_mpi.generator import Generator, create_model

__all__ = ["Generator", "__version__", "create_model"]

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    if name in ("Generator", "create_model"):
        return getattr(import_module("galaxy_mpi.generator"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
