"""The section with a step as a waterfall of ops."""

from galaxy_mpi.json_values import JsonView
from galaxy_mpi.report.parts import Column, Section, Table, Waterfall

__all__ = ["ops_section"]

Figures = JsonView  # of `DeviceTimes.to_dict` with its bands


def ops_section(figures: Figures) -> Section:
    """Return the mean decode step of chip (0, 0), op by op in the order of the step."""
    by_op, bounds = figures["by_op_s"], figures["bound_by_op"]
    step_s, margin = figures["decode_step_s"], figures.get("decode_step_s_margin")
    known = [(name, seconds) for name, seconds in by_op.items() if seconds > 0]
    columns = [
        Column("op"),
        Column("in a step", "us", ".2f"),
        Column("share", "", ".1%"),
        Column("waits for"),
    ]
    rows = [[name, s * 1e6, s / step_s if step_s else 0.0, bounds[name]] for name, s in known]
    chart = Waterfall(
        title="A decode step of chip (0, 0): each op in all layers, by what it waits for",
        unit="us",
        steps=[(name, s * 1e6, bounds[name]) for name, s in known],
        table=Table(columns, rows, "Ops, in the order of the step"),
        total="decode step",
        margin=margin,
    )
    text = "Times include gaps and waiting, so they add up to the step."
    if margin is not None:
        low, high = figures["decode_step_s_band"]
        text += (
            f" Bottleneck: {figures['bottleneck']}. The step is {figures['decode_step_s_regime']}: "
            f"between {low * 1e3:.3f} and {high * 1e3:.3f} ms."
        )
    return Section("Ops of a step", [chart], text)
