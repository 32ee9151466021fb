"""The known systems, by name, and their precisions for most models."""

from galaxy_mpi.errors import ConfigError
from galaxy_mpi.mesh import Mesh
from galaxy_mpi.systems.galaxy import GALAXY
from galaxy_mpi.systems.precision import FLOAT32_PRECISION, made_of
from galaxy_mpi.systems.table import System
from galaxy_mpi.systems.tt_transformers import TT_TRANSFORMERS, TT_TRANSFORMERS_1D

__all__ = ["PRECISIONS", "SYSTEMS", "name_of_system", "system_of"]

SYSTEMS = ("galaxy", "tt_transformers")


def system_of(name: str | System, mesh: Mesh) -> System:
    """Return the system with a name, adapted to a mesh; a user's System is returned unchanged.

    Raises
    ------
    ConfigError
        If the name is unknown.

    Examples
    --------
    >>> system_of("tt_transformers", Mesh(1, 8)).mesh(Mesh(1, 8))
    Mesh(rows=8, cols=1)
    """
    if isinstance(name, System):
        return name
    if name == "galaxy":
        return GALAXY
    if name == "tt_transformers":
        return TT_TRANSFORMERS_1D if 1 in (mesh.rows, mesh.cols) else TT_TRANSFORMERS
    raise ConfigError(f"no system {name!r}; choose {', '.join(SYSTEMS)}, or name FILE.py:NAME")


PRECISIONS = {
    name: made_of(name, GALAXY.formats, [choices[-1].setting])
    for name, choices in GALAXY.settings._asdict().items()
} | {"float32": FLOAT32_PRECISION}
"""Precisions of the Galaxy for most models, by name; every system's ops can use them."""


def name_of_system(system: str | System) -> str:
    """Return the name of a system in reports."""
    return system.name if isinstance(system, System) else system
