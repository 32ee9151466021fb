"""What a page tells of the host: one layer's timeline, and the time of each op."""

from galaxy_mpi.engine.seen import Seen
from galaxy_mpi.report.gather.layer import HostLayer
from galaxy_mpi.report.parts import Bars, Cell, Column, Section, Table

__all__ = ["host_layer", "host_section"]

_MOST_READS = 512
"""That a timeline shows: a rank of many chips unpacks many weights."""


def host_layer(seen: Seen, layer: int) -> HostLayer | None:
    """Return what the rank of chip (0, 0) did in a layer; None if no step was run."""
    ops = [(name, begin, end) for of, name, begin, end in seen.ops if of == layer]
    if not ops:
        return None
    begin_s, end_s = ops[0][1], ops[-1][2]
    reads = [
        (name, max(begin, begin_s), min(end, end_s))
        for name, begin, end in seen.spans.prefetch
        if end > begin_s and begin < end_s
    ]
    held, fills = 0, list[tuple[float, float]]()
    for at_s, n_bytes in seen.spans.fills:
        if at_s > begin_s and not fills:
            fills.append((begin_s, float(held)))
        held += n_bytes
        if begin_s <= at_s <= end_s:
            fills.append((at_s, float(held)))
    return HostLayer(layer, ops, reads[:_MOST_READS], fills, seen.n_chips)


def host_section(seen: Seen) -> Section:
    """Return where the host's time goes."""
    by_op: dict[str, float] = {}
    for _, name, begin, end in seen.ops:
        by_op[name] = by_op.get(name, 0.0) + end - begin
    total = sum(by_op.values())
    rows: list[list[Cell]] = [
        [name, seconds * 1e3, seconds / total if total else 0.0] for name, seconds in by_op.items()
    ]
    columns = [Column("op"), Column("in a step", "ms", ".3f"), Column("share", "", ".1%")]
    chart = Bars(
        title=f"Decode step {seen.step} on the host: each op in all layers, messages included",
        unit="ms",
        names=list(by_op),
        series={"host time": [seconds * 1e3 for seconds in by_op.values()]},
        table=Table(columns, rows, "Ops, host time", is_host=True),
        is_host=True,
    )
    text = "Of the rank that plays chip (0, 0): from the end of one op to the end of the next."
    if seen.n_chips > 1:
        text += f" It plays {seen.n_chips} chips in turn."
    return Section("Host time", [chart], text)
