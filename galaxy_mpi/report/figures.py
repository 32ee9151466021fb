"""Charts as the figures of plotly.js: data and layout, as JSON holds them.

Sizes, colours and texts are all given here, so the same chart is the same JSON. Colours of ground,
grid and letters are not: the page's script sets them from its style, dark or light.
"""

from collections.abc import Sequence

from galaxy_mpi.json_values import JsonObject
from galaxy_mpi.report.palette import colour_of
from galaxy_mpi.report.parts import Bars, Curves, Ends, Span, Timeline, Waterfall, ends_of

__all__ = ["figure_of"]

Figure = JsonObject  # foreign: a figure of plotly.js

_ROW, _HEAD = 24, 110
"""Pixels of a bar, and of axes and legend."""

_THICK = 0.8
"""Width of a bar, as a share of its slot: plotly would choose another for each series."""

_LEVELS = 130
"""Pixels of the levels below a timeline."""

_MOST_TICKS = 14
"""Points of a logarithmic axis that are all named; of more, powers of ten are."""

_MOST_MARKERS = 60
"""Points of a line that are marked."""

_SYMBOLS = ("circle-open", "square-open", "diamond-open", "triangle-up-open")

_OUTLINE = {"width": 1, "color": "rgba(128, 128, 128, 0.6)"}

_LETTERS = 120
"""Letters that fit on a whole timeline."""

_LONGEST = 44
"""Letters of a label; hovering shows the rest."""


def figure_of(chart: Bars | Waterfall | Timeline | Curves) -> Figure:
    """Return ``data`` and ``layout`` of a chart."""
    if isinstance(chart, Bars):
        return _bars(chart)
    if isinstance(chart, Waterfall):
        return _waterfall(chart)
    if isinstance(chart, Timeline):
        return _timeline(chart)
    return _curves(chart)


def _bars(chart: Bars) -> Figure:
    data, ticks = [], _labels(chart.names)
    for number, (series, values) in enumerate(chart.series.items()):
        ends = chart.ends.get(series)
        trace: Figure = {
            "type": "bar",
            "orientation": "h",
            "name": series,
            "y": list(range(len(chart.names))),
            "x": list(values),
            "customdata": list(chart.names),
            "marker": {"color": colour_of(series, number)},
            "hovertemplate": f"%{{customdata}}<br>{series}: %{{x:.4g}} {chart.unit}<extra></extra>",
        }
        if ends is not None:
            trace["error_x"] = _errors(values, ends)
        data.append(trace)
    layout = _layout(chart.unit, len(chart.names) * (1 if chart.is_stacked else len(chart.series)))
    layout["barmode"] = "stack" if chart.is_stacked else "group"
    layout["yaxis"] |= ticks
    layout["showlegend"] = len(chart.series) > 1
    return {"data": data, "layout": layout}


def _errors(values: Sequence[float | None], ends: Sequence[Ends | None]) -> Figure:
    """Return error bars; of no length where there is no value or no band."""
    least, most = list[float](), list[float]()
    for value, band in zip(values, ends, strict=True):
        low, high = (value, value) if band is None or value is None else band
        least.append((value or 0.0) - (low or 0.0))
        most.append((high or 0.0) - (value or 0.0))
    return {"type": "data", "symmetric": False, "array": most, "arrayminus": least}


def _waterfall(chart: Waterfall) -> Figure:
    names = [name for name, _, _ in chart.steps]
    begins, at = [], 0.0
    for _, value, _ in chart.steps:
        begins.append(at)
        at += value
    data = []
    for number, group in enumerate(dict.fromkeys(group for _, _, group in chart.steps)):
        places = [n for n, step in enumerate(chart.steps) if step[2] == group]
        data.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": group,
                "y": places,
                "x": [chart.steps[n][1] for n in places],
                "base": [begins[n] for n in places],
                "width": _THICK,
                "customdata": [[names[n], chart.steps[n][1]] for n in places],
                "marker": {"color": colour_of(group, number)},
                "hovertemplate": f"%{{customdata[0]}}<br>%{{customdata[1]:.4g}} {chart.unit}, "
                f"{group}<extra></extra>",
            }
        )
    total: Figure = {
        "type": "bar",
        "orientation": "h",
        "name": chart.total,
        "y": [len(names)],
        "x": [at],
        "width": _THICK,
        "marker": {"color": colour_of("total")},
        "hovertemplate": f"{chart.total}<br>%{{x:.4g}} {chart.unit}<extra></extra>",
    }
    if chart.margin is not None:
        total["error_x"] = _errors([at], [ends_of(at, chart.margin)])
    layout = _layout(chart.unit, len(names) + 1)
    layout["barmode"] = "overlay"
    layout["yaxis"] |= _labels([*names, chart.total])
    return {"data": [*data, total], "layout": layout}


def _timeline(chart: Timeline) -> Figure:
    data: list[Figure] = []
    length = max(span.end for span in chart.spans) - min(span.begin for span in chart.spans)
    for number, group in enumerate(dict.fromkeys(span.group for span in chart.spans)):
        spans = [span for span in chart.spans if span.group == group]
        data.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": group,
                "y": [chart.tracks.index(span.track) for span in spans],
                "x": [span.end - span.begin for span in spans],
                "base": [span.begin for span in spans],
                "width": _THICK,
                "text": [_label(span, length) for span in spans],
                "textposition": "inside",
                "insidetextanchor": "middle",
                "textangle": 0,
                "constraintext": "none",
                "textfont": {"color": "#ffffff", "size": 10},
                "cliponaxis": True,
                "customdata": [[span.name, span.end - span.begin] for span in spans],
                "marker": {"color": colour_of(group, number), "line": _OUTLINE},
                "hovertemplate": f"%{{customdata[0]}}<br>from %{{base:.4g}} {chart.unit}, "
                f"%{{customdata[1]:.4g}} {chart.unit} long<extra></extra>",
            }
        )
    layout = _layout(chart.unit, len(chart.tracks))
    layout["barmode"] = "overlay"
    layout["bargap"] = 0.15
    layout["uniformtext"] = {"minsize": 9, "mode": "hide"}
    layout["yaxis"] |= _labels(chart.tracks)
    if chart.levels:
        bars = _ROW * max(2, len(chart.tracks))
        layout["height"] += _LEVELS
        layout["yaxis"]["domain"] = [round((_LEVELS + 24) / (bars + _LEVELS), 3), 1.0]
        layout["xaxis"]["anchor"] = "y2"
        layout["yaxis2"] = {
            "domain": [0.0, round((_LEVELS - 24) / (bars + _LEVELS), 3)],
            "title": {"text": chart.level_unit},
            "rangemode": "tozero",
        }
        for number, (name, points) in enumerate(chart.levels.items()):
            data.append(
                {
                    "type": "scatter",
                    "mode": "lines",
                    "name": name,
                    "x": [at for at, _ in points],
                    "y": [value for _, value in points],
                    "yaxis": "y2",
                    "line": {"shape": "hv", "color": colour_of(name, number)},
                    "fill": "tozeroy",
                    "hovertemplate": f"{name}<br>%{{y:.4g}} {chart.level_unit} at %{{x:.4g}} "
                    f"{chart.unit}<extra></extra>",
                }
            )
    return {"data": data, "layout": layout}


def _label(span: Span, length: float) -> str:
    """Return the name of a span whose track does not say it, if it fits on a part of ``length``."""
    room = _LETTERS * (span.end - span.begin) / (length or 1.0)
    return span.name if span.name != span.track and len(span.name) < room else ""


def _curves(chart: Curves) -> Figure:
    data = list[Figure]()
    for number, (name, points) in enumerate(chart.curves.items()):
        labels = list(chart.labels.get(name, [name] * len(points)))
        data.append(
            {
                "type": "scatter",
                "mode": _mode(chart, name, len(points)),
                "name": name,
                "x": [x for x, _ in points],
                "y": [y for _, y in points],
                "customdata": labels,
                "line": {"color": colour_of(name if name in ("equal", "measured") else "", number)},
                "hovertemplate": "%{customdata}<br>%{x:.4g}, %{y:.4g}<extra></extra>",
            }
        )
        if len(points) == 1 and chart.joined is not None:  # around a point of another curve
            symbol = _SYMBOLS[number % len(_SYMBOLS)]
            data[-1]["marker"] = {"symbol": symbol, "size": 13, "color": colour_of("", number)}
        if name in chart.ends:
            data[-1]["error_y"] = _errors([y for _, y in points], chart.ends[name])
    layout = _layout(chart.x, 14)
    is_log_x, ticks = chart.is_log or chart.is_log_x, {"tickformat": ".6~g"}
    layout["xaxis"] |= {"type": "log" if is_log_x else "linear", **ticks}
    layout["yaxis"] = {
        "title": {"text": chart.y},
        "automargin": True,
        "type": "log" if chart.is_log else "linear",
        **ticks,
    }
    places = sorted({x for curve in chart.curves.values() for x, _ in curve})
    if chart.is_log and len(places) <= _MOST_TICKS:
        layout["xaxis"] |= {"tickvals": places, "ticktext": [f"{x:.6g}" for x in places]}
    return {"data": data, "layout": layout}


def _mode(chart: Curves, name: str, n_points: int) -> str:
    if chart.joined is not None and name not in chart.joined:
        return "markers"
    return "lines+markers" if n_points <= _MOST_MARKERS else "lines"


def _layout(unit: str, n_rows: int) -> Figure:
    return {
        "height": _HEAD + _ROW * max(2, n_rows),
        "margin": {"l": 8, "r": 16, "t": 8, "b": 48},
        "xaxis": {"title": {"text": unit}, "automargin": True, "tickformat": ",.6~g"},
        "yaxis": {"automargin": True},
        "legend": {
            "orientation": "h",
            "traceorder": "normal",
            "y": 1.0,
            "yanchor": "bottom",
            "x": 0,
        },
        "hovermode": "closest",
    }


def _labels(names: Sequence[str]) -> Figure:
    """Return ticks with short names: bars are placed by number, because names may be alike."""
    short = [n if len(n) <= _LONGEST else f"{n[: _LONGEST - 3]}..." for n in names]
    return {
        "tickmode": "array",
        "tickvals": list(range(len(names))),
        "ticktext": short,
        "range": [len(names) - 0.5, -0.5],
    }
