"""The system of a machine, with its own choices replaced by what was asked for."""

from dataclasses import replace

from galaxy_mpi.mesh import Mesh
from galaxy_mpi.systems import System, system_of
from galaxy_mpi.timing import Machine

__all__ = ["SAMPLINGS", "rewired", "sampled_on", "system_of_machine"]

SAMPLINGS = ("host", "device")
"""Where tokens are chosen."""

_SAMPLES = {"host": "tt_transformers", "device": "galaxy"}
"""The system that samples there."""


_GALAXIES = (8, 4)
"""The mesh of machines that have the Galaxy's system."""


def sampled_on(system: System, where: str) -> System:
    """Return a system that chooses tokens on the ``host`` or on the ``device``."""
    ops = system_of(_SAMPLES[where], Mesh(8, 4))
    return replace(
        system,
        decode=replace(system.decode, sample=ops.decode.sample),
        prefill=replace(system.prefill, sample=ops.prefill.sample),
    )


def rewired(system: System, *, has_links: bool, has_topology: bool) -> System:
    """Return a system that uses the machine's links, or its topology, where these were asked for.

    By itself a system may use fewer links, or a line where the machine has a ring.
    """
    fabric = system.fabric
    if has_links:
        fabric = replace(fabric, gather_links=None, scatter_links=None)
    if has_topology:
        fabric = replace(fabric, is_line=False)
    return replace(system, fabric=fabric)


def system_of_machine(machine: Machine) -> str:
    """Return the name of the system that a machine has."""
    mesh = Mesh.parse(machine.mesh)
    return "galaxy" if (mesh.rows, mesh.cols) == _GALAXIES else "tt_transformers"
