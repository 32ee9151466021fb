"""The section with the mesh: what every chip and every link does in a step."""

from collections import defaultdict

import numpy as np

from galaxy_mpi.mesh import Axis
from galaxy_mpi.program.charge import Cross
from galaxy_mpi.report.gather.links import Load, loads_of
from galaxy_mpi.report.gather.step import ShownStep
from galaxy_mpi.report.parts import (
    Cell,
    ChipView,
    Column,
    Facts,
    LinkView,
    MeshPicture,
    Section,
    Table,
)

__all__ = ["mesh_section", "waited_for_s"]

LEAST_WAIT = 0.01
"""Share of a step from which a chip that others wait for stands out."""

_MOST_OPENED = 256
"""Chips of a mesh that can be opened one by one; of larger ones there is the table."""

_OPS_SHOWN = 8


def waited_for_s(step: ShownStep) -> dict[int, float]:
    """Return for how long others wait for a chip in a step, by rank.

    As `galaxy_mpi.timing.run_clock.stragglers` has it: what the chip that waits longest for it
    waits, less what it waits itself, because that is passed on.
    """
    mesh, record = step.mesh, step.record
    waits: dict[int, defaultdict[int, float]] = {
        rank: defaultdict(float) for rank in range(mesh.n_chips)
    }
    groups = {
        axis: sorted({tuple(mesh.group(rank, axis)) for rank in range(mesh.n_chips)})
        for axis in Axis
    }
    for work in record.work:
        if not isinstance(work.charge, Cross):
            continue
        waited = work.waited_s
        if not waited.any():
            continue
        flat, begins = waited.reshape(-1), work.begin_s.reshape(-1)
        for group in groups[work.charge.wire.axis]:
            last = group[int(np.argmax(begins[list(group)]))]
            for rank in group:
                if flat[rank] > 0:
                    waits[rank][last] += float(flat[rank])
    own = {rank: sum(others.values()) for rank, others in waits.items()}
    longest: dict[int, float] = {}
    for others in waits.values():
        for rank, seconds in others.items():
            longest[rank] = max(longest.get(rank, 0.0), seconds)
    return {rank: seconds - own[rank] for rank, seconds in longest.items()}


def mesh_section(step: ShownStep) -> Section:
    """Return the picture, and tables of chips and links."""
    loads = list(loads_of(step))
    chips = _chips(step, loads)
    columns = [Column("chip"), *(Column(name, "us", ".2f") for name in chips[0].shares)]
    rows: list[list[Cell]] = [
        [f"({chip.row}, {chip.col})", *(s * 1e6 for s in chip.shares.values()), _marks(chip)]
        for chip in chips
    ]
    picture = MeshPicture(
        rows=step.mesh.rows,
        cols=step.mesh.cols,
        chips=chips,
        links=[_link(load) for load in loads],
        table=Table([*columns, Column("stands out")], rows, "All chips", is_folded=True),
        links_table=_links_table(loads),
    )
    text = (
        f"{step.name[:1].upper()}{step.name[1:]}: {step.timing.seconds * 1e6:.1f} us of device "
        f"time. A chip's bar is the whole step: busy with its own ops, in collectives, waiting for "
        f"chips that enter a collective later, waiting for weights (prefetch stall) or the host, "
        f"and gaps between ops. The thicker a link, the busier it is."
    )
    return Section("Mesh", [picture], text)


def _chips(step: ShownStep, loads: list[Load]) -> list[ChipView]:
    shares, mesh = step.shares, step.mesh
    waited, step_s = waited_for_s(step), step.timing.seconds
    worst = max(waited.values(), default=0.0)
    by_op = _by_op(step)
    found = []
    for rank in range(mesh.n_chips):
        row, col = mesh.coord(rank)
        marks = []
        factor = step.slowness.chips.get((row, col), 1.0)
        if factor != 1:
            marks.append(f"ops x{factor:g}")
        if waited.get(rank, 0.0) > max(LEAST_WAIT * step_s, worst / 2):
            marks.append("waited for")
        spent = {
            "busy": float(shares.busy_s[row, col]),
            "collectives": float(shares.collective_s[row, col]),
            "waiting": float(shares.waiting_s[row, col]),
            "prefetch stall": float(shares.stall_s[row, col]),
            **({"host": float(shares.host_s[row, col])} if shares.host_s.any() else {}),
            "gaps": float(shares.gap_s[row, col]),
        }
        parts: list[Facts | Table] = []
        if mesh.n_chips <= _MOST_OPENED:
            parts = [
                Facts(_facts(spent, step_s, waited.get(rank, 0.0))),
                _ops_table(by_op, row, col, step_s),
                _wires_of(loads, row, col),
            ]
        label = f"{spent['busy'] / step_s:.0%} busy"
        found.append(ChipView(row, col, spent, label, marks, parts))
    return found


def _facts(spent: dict[str, float], step_s: float, waited_s: float) -> list[tuple[str, str]]:
    rows = [(name, f"{s * 1e6:.2f} us ({s / step_s:.1%})") for name, s in spent.items()]
    if waited_s > 0:
        rows.append(("others wait for it", f"up to {waited_s * 1e6:.2f} us"))
    return rows


def _by_op(step: ShownStep) -> dict[str, np.ndarray]:
    """Return the seconds of each op on every chip, waiting in collectives included."""
    found: dict[str, np.ndarray] = {}
    for work in step.record.work:
        spent = work.end_s - work.begin_s
        known = found.get(work.charge.name)
        found[work.charge.name] = spent if known is None else known + spent
    return found


def _ops_table(by_op: dict[str, np.ndarray], row: int, col: int, step_s: float) -> Table:
    here = sorted(((float(s[row, col]), name) for name, s in by_op.items()), reverse=True)
    rows: list[list[Cell]] = [[name, s * 1e6, s / step_s] for s, name in here[:_OPS_SHOWN]]
    columns = [Column("op"), Column("in the step", "us", ".2f"), Column("share", "", ".1%")]
    return Table(columns, rows, f"Its {len(rows)} longest ops, waiting included")


def _wires_of(loads: list[Load], row: int, col: int) -> Table:
    rows: list[list[Cell]] = [
        [load.axis.group_name, load.there_bytes / 2**10, load.back_bytes / 2**10, load.busy]
        for load in loads
        if (load.row, load.col) == (row, col)
    ]
    columns = [
        Column("link to the next chip of its"),
        Column("there", "KiB", ".2f"),
        Column("back", "KiB", ".2f"),
        Column("busy", "", ".2%"),
    ]
    return Table(columns, rows, "One link, in a step")


def _marks(chip: ChipView) -> str:
    return ", ".join(chip.marks)


def _link(load: Load) -> LinkView:
    mark = "" if load.factor == 1 else f"x{load.factor:g}"
    is_row = load.axis is Axis.COLUMN
    return LinkView(load.row, load.col, is_row, load.there_bytes, load.back_bytes, load.busy, mark)


def _links_table(loads: list[Load]) -> Table:
    """Return one row for all links with equal figures: most are equal."""
    alike: dict[tuple[object, ...], list[Load]] = {}
    for load in loads:
        place = load.row if load.axis is Axis.COLUMN else load.col
        key = (load.axis, place, load.there_bytes, load.back_bytes, load.factor)
        alike.setdefault(key, []).append(load)
    rows: list[list[Cell]] = []
    for same in alike.values():
        one = same[0]
        place = one.row if one.axis is Axis.COLUMN else one.col
        word = "row" if one.axis is Axis.COLUMN else "column"
        rows.append(
            [
                f"{one.axis.group_name}, after {word} {place}",
                len(same),
                one.there_bytes / 2**10,
                one.back_bytes / 2**10,
                one.busy,
                "" if one.factor == 1 else f"({one.row}, {one.col}): slower by {one.factor:g}",
            ]
        )
    columns = [
        Column("links"),
        Column("alike", "", "d"),
        Column("there", "KiB a link and step", ".2f"),
        Column("back", "KiB a link and step", ".2f"),
        Column("busy", "", ".2%"),
        Column("stands out"),
    ]
    return Table(columns, rows, "All links", is_folded=True)
