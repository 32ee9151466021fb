"""Which request held which place when, as spans to draw."""

from galaxy_mpi.plot import Span
from galaxy_mpi.serving.traffic import Day

__all__ = ["timeline"]

DRAWN_S = 60.0
"""Length of the drawn time: in a longer one, spans would be too thin to see."""


def timeline(day: Day, most_s: float = DRAWN_S) -> tuple[str, str, list[Span]]:
    """Return the title, the axis label, and the prefill and decode spans of each request."""
    spans = []
    for one in day.service.served:
        if one.start_s is None or one.start_s >= most_s:
            continue
        first_s = one.end_s if one.first_token_s is None else one.first_token_s
        for kind, begin_s, end_s in (
            ("prefill", one.start_s, first_s),
            ("decode", first_s, one.end_s),
        ):
            if begin_s < most_s:
                spans.append(Span(kind, one.place, begin_s, min(end_s, most_s)))
    what_if, end_s = day.traffic.what_if, day.service.totals.end_s
    shown = f"the first {most_s:g} s" if end_s > most_s else f"{end_s:.3g} s"
    return f"{what_if.model}: requests by place, {shown}", "place", spans
