"""An estimate as text."""

from typing import TYPE_CHECKING

from galaxy_mpi.output import named_lines
from galaxy_mpi.timing.summary import budget_rows, device_rows, op_table, straggler_rows

if TYPE_CHECKING:
    from galaxy_mpi.studies.what_if import WhatIf

__all__ = ["table_of"]


def table_of(what_if: "WhatIf") -> str:
    """Return the figures of an estimate, and its ops, as text."""
    figures, model = what_if.report["device"], what_if.programs.model
    rows = [
        ("model", f"{what_if.model}, {model.n_layers} layers, dim {model.dim}"),
        ("mesh, machine", f"{what_if.programs.asked_mesh}, {what_if.machine}"),
        ("system, precision", f"{what_if.system_name}, {what_if.programs.precision.name}"),
        ("users, tokens", f"{what_if.n_users}, {what_if.longest} in, {what_if.n_steps} new"),
        *device_rows(figures),
        *straggler_rows(figures.get("stragglers", ()), figures["decode_step_s"], what_if.slowness),
        *budget_rows(what_if.budget),
    ]
    return "\n".join([*named_lines(rows), "", *op_table(figures)])
