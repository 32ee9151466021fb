"""Who had which place when, and how many requests waited: of a page of traffic."""

from collections.abc import Iterable, Sequence

from galaxy_mpi.report.parts import Cell, Column, Section, Span, Table, Timeline
from galaxy_mpi.serving.served import Served

__all__ = ["places_sections"]

_SHOWN_S = 60.0
"""Seconds of a day that a timeline has, from its beginning."""

_MOST_SPANS = 3000


def places_sections(served: Sequence[Served]) -> list[Section]:
    """Return which request held which place when; nothing if none held one."""
    spans, shown = list[Span](), list[Served]()
    end_s = min(_SHOWN_S, max((one.end_s for one in served), default=0.0))
    for one in sorted(served, key=lambda one: (one.start_s or 0.0, one.number)):
        if one.start_s is None or one.start_s >= end_s or len(spans) >= _MOST_SPANS:
            continue
        first_s = one.end_s if one.first_token_s is None else one.first_token_s
        track = f"place {one.place}"
        for kind, begin, stop in (
            ("prefill", one.start_s, first_s),
            ("decode", first_s, one.end_s),
        ):
            if stop > begin and begin < end_s:
                spans.append(Span(track, f"request {one.number}", begin, min(stop, end_s), kind))
        shown.append(one)
    if not spans:
        return []
    places = sorted({span.track for span in spans}, key=lambda name: int(name.split()[1]))
    rows: list[list[Cell]] = [
        [
            one.number,
            one.place,
            one.size.input_tokens,
            one.output_tokens,
            one.cached_tokens,
            one.arrival_s,
            one.queue_s * 1e3,
            _ms(one.ttft_s),
            _ms(one.tpot_s),
            one.e2e_s,
        ]
        for one in shown
    ]
    columns = [
        Column("request", "", "d"),
        Column("place", "", "d"),
        Column("tokens in", "", "d"),
        Column("out", "", "d"),
        Column("cached", "", "d"),
        Column("arrives", "s", ".3f"),
        Column("queue", "ms", ".1f"),
        Column("TTFT", "ms", ".1f"),
        Column("TPOT", "ms", ".2f"),
        Column("end to end", "s", ".3f"),
    ]
    levels = {
        "waiting": _count((one.arrival_s, one.start_s or one.end_s) for one in served),
        "with a place": _count((one.start_s, one.end_s) for one in served if one.start_s),
    }
    chart = Timeline(
        title="Users' places",
        unit="s of device time",
        tracks=places,
        spans=spans,
        table=Table(columns, rows, "Requests of the picture", is_folded=True),
        levels={
            name: [point for point in points if point[0] <= _end_of(spans)]
            for name, points in levels.items()
        },
        level_unit="requests",
    )
    text = f"The first {_end_of(spans):.3g} s of the day, and how many requests are waiting."
    return [Section("Places", [chart], text)]


def _end_of(spans: Sequence[Span]) -> float:
    """Return when the last one ends."""
    return max(span.end for span in spans)


def _count(stays: Iterable[tuple[float | None, float]]) -> list[tuple[float, float]]:
    """Return how many there are from each change on."""
    changes: dict[float, int] = {}
    for begin, end in stays:
        changes[begin or 0.0] = changes.get(begin or 0.0, 0) + 1
        changes[end] = changes.get(end, 0) - 1
    held, found = 0, [(0.0, 0.0)]
    for at in sorted(changes):
        if changes[at]:
            held += changes[at]
            found.append((at, float(held)))
    return found


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1e3
