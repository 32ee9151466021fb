"""Plots, with matplotlib (extra ``plot``)."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from galaxy_mpi.errors import ConfigError

__all__ = [
    "Panel",
    "Span",
    "bars_png",
    "curves_png",
    "front_png",
    "grouped_bars_png",
    "panels_png",
    "spans_png",
]


@dataclass(frozen=True)
class Panel:
    """One of several plots over the same values."""

    label: str
    """Axis label, with the unit."""
    lines: dict[str, list[list[float]]]
    """By name: the values, and the low and high ends of their bands."""
    is_log: bool = False


@dataclass(frozen=True)
class Span:
    """A bar in a row of a timeline; times in seconds."""

    kind: str
    row: int
    begin_s: float
    end_s: float


def bars_png(title: str, values: dict[str, float], unit: str, suffix: str = ".png") -> bytes:
    """Return horizontal bars, the longest on top, as a PNG, or an SVG by the suffix of its file.

    Raises
    ------
    ConfigError
        If matplotlib is not installed.
    """
    shown = sorted(values.items(), key=lambda item: item[1])
    figure, axes = _figure(height=1.0 + 0.25 * len(shown))
    bars = axes.barh([name for name, _ in shown], [value for _, value in shown])
    axes.bar_label(bars, fmt="%.1f", padding=3)
    axes.margins(x=0.12)
    axes.set_xlabel(unit)
    axes.set_title(title)
    return _png(figure, suffix)


def grouped_bars_png(
    title: str, names: Sequence[str], series: dict[str, list[float]], suffix: str = ".png"
) -> bytes:
    """Return a row of horizontal bars for each series, the first name on top; see `bars_png`.

    Raises
    ------
    ConfigError
        If matplotlib is not installed.
    """
    figure, several = _figure(height=1.0 + 0.3 * len(names), columns=len(series))
    for axes, (unit, values) in zip(several, series.items(), strict=True):
        bars = axes.barh(names, values)
        axes.bar_label(bars, fmt="%.2f", padding=3)
        axes.margins(x=0.15)
        axes.set_xlabel(unit)
        axes.invert_yaxis()
        axes.label_outer()
    figure.suptitle(title)
    return _png(figure, suffix)


def curves_png(
    title: str, x_label: str, y_label: str, curves: dict[str, list[tuple[float, float]]]
) -> bytes:
    """Return a curve through the points of each name, both axes logarithmic, as a PNG.

    Raises
    ------
    ConfigError
        If matplotlib is not installed.
    """
    figure, axes = _figure(height=6.0)
    for name, points in curves.items():
        axes.loglog(*zip(*sorted(points), strict=True), "o-", label=name, markersize=3)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(visible=True, which="major", alpha=0.3)
    axes.legend(fontsize="small", ncols=2)
    axes.set_title(title)
    return _png(figure)


def panels_png(
    title: str,
    key: str,
    values: Sequence[str] | Sequence[float],
    panels: Sequence[Panel],
    suffix: str = ".png",
) -> bytes:
    """Draw panels with lines and error bands over the same values; see `bars_png`.

    Raises
    ------
    ConfigError
        If matplotlib is not installed.
    """
    figure, several = _figure(
        height=4.0 * -(-len(panels) // 2), columns=2, rows=-(-len(panels) // 2)
    )
    for axes, panel in zip(several, panels, strict=False):
        for name, (line, low, high) in panel.lines.items():
            axes.plot(values, line, "o-", label=name, markersize=4)
            axes.fill_between(values, low, high, alpha=0.2)
        axes.set_xlabel(key)
        axes.set_ylabel(panel.label)
        axes.grid(visible=True, alpha=0.3)
        if panel.is_log:
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0)
        axes.legend(fontsize="small")
    figure.suptitle(title)
    return _png(figure, suffix)


def spans_png(title: str, label: str, spans: Sequence[Span], suffix: str = ".png") -> bytes:
    """Draw bars in rows over time, one colour per kind; see `bars_png`.

    Raises
    ------
    ConfigError
        If matplotlib is not installed.
    """
    n_rows = max((span.row for span in spans), default=0) + 1
    figure, axes = _figure(height=1.5 + 0.2 * n_rows)
    for number, kind in enumerate(dict.fromkeys(span.kind for span in spans)):
        of_kind = [span for span in spans if span.kind == kind]
        widths = [span.end_s - span.begin_s for span in of_kind]
        axes.barh(
            [span.row for span in of_kind],
            widths,
            left=[span.begin_s for span in of_kind],
            height=0.8,
            color=f"C{number}",
            edgecolor="white",
            linewidth=0.3,
            label=kind,
        )
    axes.set_xlabel("s")
    axes.set_ylabel(label)
    axes.set_xlim(left=0)
    axes.set_ylim(n_rows - 0.4, -0.6)
    figure.legend(loc="outside upper right", ncols=2, fontsize="small")
    axes.set_title(title)
    return _png(figure, suffix)


def front_png(
    title: str,
    x_label: str,
    y_label: str,
    points: Sequence[tuple[float, float]],
    front: Sequence[tuple[float, float]],
    named: Mapping[str, tuple[float, float]],
) -> bytes:
    """Return points, those of a front joined, and some with their names, as a PNG.

    Raises
    ------
    ConfigError
        If matplotlib is not installed.
    """
    figure, axes = _figure(height=5.5)
    axes.plot(*zip(*points, strict=True), "o", color="tab:gray", alpha=0.5, label="measured")
    axes.plot(*zip(*front, strict=True), "o-", color="tab:blue", label="front")
    for name, place in named.items():
        axes.annotate(name, place, xytext=(4, -10), textcoords="offset points", fontsize="small")
        axes.plot(*place, "s", color="tab:orange")
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    axes.set_title(title)
    return _png(figure)


def _figure(height: float, columns: int = 0, rows: int = 1) -> tuple[Any, Any]:
    """Return a figure and its axes, in columns and rows."""
    try:
        from matplotlib.figure import Figure  # imported here because it is optional and slow
    except ImportError:
        raise ConfigError(
            "--plot needs matplotlib, which is not installed: pip install matplotlib"
        ) from None
    figure = Figure(figsize=(9.0, height), layout="constrained")
    if columns:
        several = figure.subplots(rows, columns, squeeze=False)
        return figure, several[0] if rows == 1 else several.ravel()
    return figure, figure.add_subplot()


def _png(figure: Any, suffix: str = ".png") -> bytes:
    buffer = io.BytesIO()
    if suffix == ".svg":
        from matplotlib import rc_context

        # Neither a date nor numbers that are drawn by lot: the same plot is the same bytes.
        with rc_context({"svg.hashsalt": "galaxy_mpi"}):
            figure.savefig(buffer, format="svg", metadata={"Date": None})
    else:
        figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()
