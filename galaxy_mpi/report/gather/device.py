"""What pages of a run and of an estimate have in common: the sections of device time."""

from galaxy_mpi.json_values import JsonView
from galaxy_mpi.report.gather.layer import HostLayer, layer_section
from galaxy_mpi.report.gather.memory import memory_section
from galaxy_mpi.report.gather.mesh import mesh_section
from galaxy_mpi.report.gather.ops import ops_section
from galaxy_mpi.report.gather.step import ShownStep
from galaxy_mpi.report.gather.wires import wires_section
from galaxy_mpi.report.parts import Section
from galaxy_mpi.timing.budget import Budget
from galaxy_mpi.timing.summary import device_rows

__all__ = ["device_facts", "device_sections"]


def device_facts(figures: JsonView) -> list[tuple[str, str]]:
    """Return the main figures of device time."""
    return list(device_rows(dict(figures)))


def device_sections(
    step: ShownStep, figures: JsonView, budget: Budget, host: HostLayer | None = None
) -> list[Section]:
    """Return mesh, ops, layer, collectives and memory."""
    return [
        mesh_section(step),
        ops_section(figures),
        layer_section(step, host),
        wires_section(step),
        memory_section(budget, step.estimator.machine),
    ]
