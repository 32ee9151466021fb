"""A page to look at: ``--report FILE.html``. Imported only when one is asked for.

Commands gather what they know into a `Page` of `Section`s (`galaxy_mpi.report.gather` for those of
this package), and write ``to_html(page)``. A page of one's own::

    from galaxy_mpi.report import Bars, Column, Facts, Page, Section, Table, to_html

    table = Table([Column("rate", "1/s", ".1f"), Column("p90", "ms", ".1f")], [[1.0, 80.5]])
    chart = Curves("Latency", "rate, 1/s", "p90, ms", {"p90": [(1.0, 80.5)]}, table)
    page = Page("Traffic", ["galaxy_mpi.traffic"], [("model", "demo")], [Section("Load", [chart])])
    files.append((path, to_html(page)))  # for `galaxy_mpi.files.write_all`

`galaxy_mpi.files.check_page` belongs where arguments are checked: before the run it says what
is not installed, or that the file cannot be written.
"""

from galaxy_mpi.report.html import to_html
from galaxy_mpi.report.parts import (
    Bars,
    Cell,
    Column,
    Curves,
    Ends,
    Facts,
    Page,
    Part,
    Section,
    Span,
    Table,
    Timeline,
    Waterfall,
    ends_of,
)

__all__ = [
    "Bars",
    "Cell",
    "Column",
    "Curves",
    "Ends",
    "Facts",
    "Page",
    "Part",
    "Section",
    "Span",
    "Table",
    "Timeline",
    "Waterfall",
    "ends_of",
    "to_html",
]
