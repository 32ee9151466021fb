"""The section with one layer's timeline, on the device clock and on the host's."""

from collections.abc import Sequence
from dataclasses import dataclass

from galaxy_mpi.program.charge import Cross
from galaxy_mpi.report.gather.step import ShownStep
from galaxy_mpi.report.parts import Cell, Column, Part, Section, Span, Table, Timeline

__all__ = ["HostLayer", "layer_section"]

_PREFETCH = "prefetcher"
"""Track below those of the ops, which have one each."""


@dataclass(frozen=True)
class HostLayer:
    """What chip (0, 0) did in a layer on this computer: name, begin and end in seconds."""

    step: str
    begin_s: float
    work: Sequence[tuple[str, float, float]]
    waits: Sequence[tuple[str, float, float]]
    """For other ranks; where one process plays all chips there are none."""
    reads: Sequence[tuple[str, float, float]]
    fills: Sequence[tuple[float, float]]
    """Time and bytes: what the circular buffer holds from then on."""
    n_chips: int
    """That its process plays."""


def layer_section(step: ShownStep, host: HostLayer | None = None) -> Section:
    """Return the timeline of a layer from the middle of the model."""
    parts: list[Part] = [_device(step)]
    text = f"Layer {step.layer} in {step.name}, chip (0, 0)."
    if host is not None:
        parts.append(_host(host))
        if host.n_chips > 1:
            text += (
                f" On the host its process plays {host.n_chips} chips in turn: between the ops of "
                f"chip (0, 0) it works for the other chips. The prefetcher reads for all of them."
            )
    return Section("One layer", parts, text)


def _device(step: ShownStep) -> Timeline:
    layer, record = step.layer, step.record
    work = [one for one in record.work if one.layer == layer]
    begin_s = float(work[0].begin_s[0, 0])
    end_s = max(float(one.end_s[0, 0]) for one in work)

    def us(seconds: float) -> float:
        return (seconds - begin_s) * 1e6

    spans, rows = list[Span](), list[list[Cell]]()
    for one in work:
        start, stop = us(float(one.begin_s[0, 0])), us(float(one.end_s[0, 0]))
        name, kind = one.charge.name, "op"
        if isinstance(one.charge, Cross):
            kind = f"collective {one.charge.wire.axis.group_name}"
        spans.append(Span(name, name, start, stop, kind))
        rows.append([name, kind, start, stop - start])
    for read in record.reads:
        start_s, stop_s = float(read.begin_s[0, 0]), float(read.end_s[0, 0])
        if stop_s > begin_s and start_s < end_s:
            start, stop = us(max(start_s, begin_s)), us(min(stop_s, end_s))
            name = f"{read.name} of layer {read.layer}"
            spans.append(Span(_PREFETCH, name, start, stop, "read"))
            rows.append([name, "read", us(start_s), (stop_s - start_s) * 1e6])
    levels = {}
    fill = _levels(
        [(float(at[0, 0]), n_bytes) for at, n_bytes in record.fill_changes], begin_s, end_s
    )
    if fill:
        levels["circular buffer"] = [(us(at), n_bytes / 2**20) for at, n_bytes in fill]
    return Timeline(
        title="Device time",
        unit="us",
        tracks=list(dict.fromkeys(span.track for span in spans)),
        spans=spans,
        table=_table(rows, "us", "Device time of the layer"),
        levels=levels,
        level_unit="MiB",
    )


def _host(host: HostLayer) -> Timeline:
    begin_s = host.begin_s

    def ms(seconds: float) -> float:
        return (seconds - begin_s) * 1e3

    spans = [Span(name, name, ms(b), ms(e), "op") for name, b, e in host.work]
    spans += [Span(name, name, ms(b), ms(e), "waiting") for name, b, e in host.waits]
    spans += [Span(_PREFETCH, name, ms(b), ms(e), "read") for name, b, e in host.reads]
    rows: list[list[Cell]] = [
        [span.name, span.group, span.begin, span.end - span.begin] for span in spans
    ]
    levels = {}
    if host.fills:
        levels["circular buffer"] = [(ms(at), n_bytes / 2**20) for at, n_bytes in host.fills]
    return Timeline(
        title=f"Host time, {host.step}",
        unit="ms",
        tracks=list(dict.fromkeys(span.track for span in spans)),
        spans=spans,
        table=_table(rows, "ms", "Host time of the layer", is_host=True),
        levels=levels,
        level_unit="MiB unpacked",
        is_host=True,
    )


def _table(rows: list[list[Cell]], unit: str, title: str, *, is_host: bool = False) -> Table:
    columns = [
        Column("what"),
        Column("kind"),
        Column("begins", unit, ".3f"),
        Column("lasts", unit, ".3f"),
    ]
    return Table(columns, rows, title, is_folded=True, is_host=is_host)


def _levels(
    changes: Sequence[tuple[float, float]], begin_s: float, end_s: float
) -> list[tuple[float, float]]:
    """Return what is held from each change on, between two times; nothing where nothing changes."""
    held, found = 0.0, list[tuple[float, float]]()
    for at_s, n_bytes in sorted(changes):
        if at_s > end_s:
            break
        if at_s > begin_s:
            if not found:
                found.append((begin_s, held))
            if found[-1][0] == at_s:  # one leaves where the next comes
                found.pop()
            found.append((at_s, held + n_bytes))
        held += n_bytes
    return [*found, (end_s, found[-1][1])] if found else []
