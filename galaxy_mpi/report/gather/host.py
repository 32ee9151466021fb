"""What a page shows of the host: one layer's timeline, and the time of each op."""

from collections.abc import Iterable

from galaxy_mpi.engine.host_trace import Span
from galaxy_mpi.engine.seen import Seen
from galaxy_mpi.report.gather.layer import HostLayer
from galaxy_mpi.report.parts import Bars, Cell, Column, Section, Table

__all__ = ["host_layer", "host_sections"]

_MOST_READS = 512
"""That a timeline shows: a process of many chips unpacks many weights."""

_Triple = tuple[str, float, float]


def host_layer(seen: Seen, layer: int) -> HostLayer | None:
    """Return what chip (0, 0) did in a layer; None if no step was noted."""
    step, spans = _last_step(seen), seen.spans
    if step is None:
        return None
    chip = spans.chips[0]
    of_step = [work for work in spans.work if work.rank == chip and _is_in(work.begin_s, step)]
    work = [(one.op, one.begin_s, one.end_s) for one in of_step if one.layer == layer]
    if not work:
        return None
    # It ends where the next layer, or the head, begins: waiting may come last.
    begin_s = work[0][1]
    behind = [one.begin_s for one in of_step if one.layer != layer and one.begin_s > begin_s]
    end_s = min(behind, default=step.end_s)
    waits = [
        (wait.op, wait.begin_s, wait.end_s)
        for of_pass in spans.waits
        for wait in of_pass
        if chip in wait.ranks and begin_s <= wait.begin_s < end_s
    ]
    held, fills = 0, list[tuple[float, float]]()
    for at_s, n_bytes in spans.fills:
        if at_s > begin_s and not fills:
            fills.append((begin_s, float(held)))
        held += n_bytes
        if begin_s <= at_s <= end_s:
            fills.append((at_s, float(held)))
    reads = [
        (name, max(begin, begin_s), min(end, end_s))
        for name, begin, end in spans.prefetch
        if end > begin_s and begin < end_s
    ]
    title = step.name.replace("decode", "decode step")
    n_chips = len(spans.chips)
    return HostLayer(title, begin_s, work, waits, reads[:_MOST_READS], fills, n_chips)


def host_sections(seen: Seen) -> list[Section]:
    """Return where the host's time goes in a decode step; nothing if none was noted."""
    step, spans = _last_step(seen), seen.spans
    if step is None:
        return []
    chip = spans.chips[0]
    work = _by_op(
        (one.op, one.begin_s, one.end_s)
        for one in spans.work
        if one.rank == chip and _is_in(one.begin_s, step)
    )
    waits = _by_op(
        (wait.op, wait.begin_s, wait.end_s)
        for of_pass in spans.waits
        for wait in of_pass
        if chip in wait.ranks and _is_in(wait.begin_s, step)
    )
    length_s = step.end_s - step.begin_s
    names = list(dict.fromkeys([*work, *waits]))
    rows: list[list[Cell]] = [
        [
            name,
            work.get(name, 0.0) * 1e3,
            waits.get(name, 0.0) * 1e3,
            (work.get(name, 0.0) + waits.get(name, 0.0)) / length_s,
        ]
        for name in names
    ]
    columns = [
        Column("op"),
        Column("at work", "ms", ".3f"),
        Column("waiting for other ranks", "ms", ".3f"),
        Column("share of the step", "", ".1%"),
    ]
    chart = Bars(
        title="A decode step on the host: each op of chip (0, 0) in all layers",
        unit="ms",
        names=names,
        series={
            "busy": [work.get(name, 0.0) * 1e3 for name in names],
            "waiting": [waits.get(name, 0.0) * 1e3 for name in names],
        },
        table=Table(columns, rows, "Ops, host time", is_host=True),
        is_stacked=True,
        is_host=True,
    )
    text = (
        "Work and waiting of chip (0, 0). If its process plays more chips, their work is not shown."
    )
    return [Section("Host time", [chart], text)]


def _last_step(seen: Seen) -> Span | None:
    steps = [step for step in seen.spans.steps if step.name.startswith("decode")]
    return steps[-1] if steps else None


def _is_in(at_s: float, step: Span) -> bool:
    return step.begin_s <= at_s < step.end_s


def _by_op(spans: Iterable[_Triple]) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, begin_s, end_s in spans:
        found[name] = found.get(name, 0.0) + end_s - begin_s
    return found
