"""Writes a page out: one HTML file with its style, its scripts and its figures in it.

Nothing is loaded from elsewhere: the page forbids it by itself (Content-Security-Policy). The same
page gives the same bytes.
"""

import base64
import gzip
import json
from importlib import resources

from galaxy_mpi.report.figures import figure_of
from galaxy_mpi.report.palette import colour_of
from galaxy_mpi.report.parts import Bars, Cell, Column, Curves, Page, Timeline, Waterfall
from galaxy_mpi.report.picture import drawing_of

__all__ = ["to_html"]


def to_html(page: Page) -> str:
    """Return the file's text; needs the extra ``report``, see `galaxy_mpi.files.check_page`."""
    from jinja2 import Environment, PackageLoader, StrictUndefined  # here: only pages need it

    environment = Environment(
        loader=PackageLoader("galaxy_mpi.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"cell": _cell, "shown": _shown, "percent": _percent}
    template = environment.get_template("page.html")
    return template.render(
        page=page,
        has_charts=any(part.kind == "chart" for one in page.sections for part in one.parts),
        library=_library,
        figure=_figure_json,
        drawing=drawing_of,
        colour=colour_of,
    )


def _library() -> str:
    """Return the script of plotly.js, as it comes with plotly's Python package.

    Packed: 1.9 of its 4.8 MB. The page's own script unpacks it.
    """
    script = resources.files("plotly").joinpath("package_data/plotly.min.js").read_bytes()
    return base64.b64encode(gzip.compress(script, mtime=0)).decode("ascii")


def _figure_json(chart: Bars | Waterfall | Timeline | Curves) -> str:
    """Return a figure as JSON that can stand within a script element."""
    text = json.dumps(_rounded(figure_of(chart)), ensure_ascii=True, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _rounded(value: object) -> object:
    """Return the figure with numbers of 7 digits: no picture shows more."""
    if isinstance(value, float):
        return float(f"{value:.7g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return value


def _cell(value: Cell, column: Column) -> str:
    """Return what a cell shows."""
    if value is None:
        return "-"
    if column.form and not isinstance(value, str):
        return format(value, column.form)
    return str(value)


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"


def _shown(text: str) -> str:
    """Return a token with white space that can be seen."""
    return text.replace("\n", "\u21b5\n") or "\u2205"
