"""What a page is made of, as plain data: no HTML, no chart library, no clocks.

::

    Page
      facts                 name and value, on top
      sections
        title, text
        parts               Facts, Table, Bars, Waterfall, Timeline, Curves, MeshPicture, Texts

A chart always comes with a table of the same figures, so a page can be read without scripts.
Commands fill these in (`galaxy_mpi.report.gather`), `galaxy_mpi.report.html` writes them out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

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
]

Cell = str | int | float | None

Ends = tuple[float, float]
"""Least and most that a value may be."""


def ends_of(value: float | None, margin: float | None) -> Ends | None:
    """Return the ends of a band: a value over 1 + margin, and times that."""
    if value is None or margin is None:
        return None
    return value / (1 + margin), value * (1 + margin)


@dataclass(frozen=True)
class Column:
    """A column of a table."""

    name: str
    unit: str = ""
    """Shown after the name."""
    form: str = ""
    """Format of its numbers, for example ``.1f`` or ``.0%``; columns of numbers are set right."""


@dataclass(frozen=True)
class Table:
    """Rows of cells; None is shown as a dash."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    title: str = ""
    is_folded: bool = False
    """Whether it is shown only when its title is opened: long tables."""
    is_host: bool = False
    """Whether it has host time, which differs from run to run."""

    kind = "table"


@dataclass(frozen=True)
class Facts:
    """Names with values."""

    rows: Sequence[tuple[str, str]]
    title: str = ""
    is_folded: bool = False
    is_host: bool = False

    kind = "facts"


@dataclass(frozen=True)
class Bars:
    """A horizontal bar for each name, of one or more series."""

    title: str
    unit: str
    names: Sequence[str]
    series: Mapping[str, Sequence[float | None]]
    """By name of the series, a value for each name."""
    table: Table
    is_stacked: bool = False
    ends: Mapping[str, Sequence[Ends | None]] = field(default_factory=dict)
    """By series: error bars."""
    is_host: bool = False

    kind = "chart"


@dataclass(frozen=True)
class Waterfall:
    """Values that follow each other and add up, each with its group, which gives the colour."""

    title: str
    unit: str
    steps: Sequence[tuple[str, float, str]]
    """Name, value, group."""
    table: Table
    total: str = "all"
    """Name of the sum."""
    margin: float | None = None
    """Of the sum, relative."""

    kind = "chart"


@dataclass(frozen=True)
class Span:
    """Something that a track is busy with."""

    track: str
    name: str
    begin: float
    end: float
    group: str
    """Gives the colour."""


@dataclass(frozen=True)
class Timeline:
    """Spans on tracks, and levels below them on the same axis of time."""

    title: str
    unit: str
    tracks: Sequence[str]
    """From top to bottom."""
    spans: Sequence[Span]
    table: Table
    levels: Mapping[str, Sequence[tuple[float, float]]] = field(default_factory=dict)
    """By name, (time, value): the value from that time on."""
    level_unit: str = ""
    is_host: bool = False

    kind = "chart"


@dataclass(frozen=True)
class Curves:
    """Points (x, y) of each name, joined by lines."""

    title: str
    x: str
    """Label with unit."""
    y: str
    curves: Mapping[str, Sequence[tuple[float, float]]]
    table: Table
    labels: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """By curve: what each point is called."""
    ends: Mapping[str, Sequence[Ends | None]] = field(default_factory=dict)
    """By curve: error bars of y."""
    is_log: bool = False
    is_log_x: bool = False
    """Only the axis of x."""
    joined: Sequence[str] | None = None
    """Curves whose points are joined by lines; None: all of them."""
    is_host: bool = False

    kind = "chart"


Chart = Bars | Waterfall | Timeline | Curves


@dataclass(frozen=True)
class ChipView:
    """A chip of the picture."""

    row: int
    col: int
    shares: Mapping[str, float]
    """Seconds by what they are spent on."""
    label: str
    """A few letters in its box."""
    marks: Sequence[str] = ()
    """Why it stands out: ``ops x2``, ``waited for``."""
    parts: "Sequence[Facts | Table]" = ()
    """What is shown when it is opened."""

    @property
    def name(self) -> str:
        """For an anchor in the page."""
        return f"chip-{self.row}-{self.col}"


@dataclass(frozen=True)
class LinkView:
    """The links from a chip to the next one along an axis; after the last one comes the first."""

    row: int
    col: int
    along_rows: bool
    """Whether the next chip is that of the next row; of the next column otherwise."""
    there_bytes: float
    """Bytes of one link in a step, from this chip to the next."""
    back_bytes: float
    load: float
    """Share of the step in which the busier direction is busy, 0 to 1."""
    mark: str = ""
    """Why it stands out: ``x4``."""


@dataclass(frozen=True)
class MeshPicture:
    """The mesh with what its chips and links do in a step."""

    rows: int
    cols: int
    chips: Sequence[ChipView]
    links: Sequence[LinkView]
    table: Table
    """Of the chips."""
    links_table: Table

    kind = "mesh"


@dataclass(frozen=True)
class Token:
    """A token that was generated."""

    text: str
    probability: float | None
    others: Sequence[tuple[str, float]] = ()
    """The best candidates with their probabilities."""
    instead: str | None = None
    """What the other run chose in its place, where that is something else."""


@dataclass(frozen=True)
class UserText:
    """What one user asked and got."""

    user: int
    prompt: str
    tokens: Sequence[Token]
    ended: str
    note: str = ""
    """Where the other run differs first."""
    plain: str = ""
    """The text, where ``tokens`` has not all of it."""


@dataclass(frozen=True)
class Texts:
    """Prompts and what was generated, with the probability of each token."""

    users: Sequence[UserText]

    kind = "texts"


Part = Facts | Table | Bars | Waterfall | Timeline | Curves | MeshPicture | Texts


@dataclass(frozen=True)
class Section:
    """A part of a page that the list of contents names."""

    title: str
    parts: Sequence[Part]
    text: str = ""
    """What it shows, in a sentence or two."""

    @property
    def anchor(self) -> str:
        """For links."""
        letters = "".join(c if c.isalnum() else "-" for c in self.title.lower())
        return "-".join(filter(None, letters.split("-")))


@dataclass(frozen=True)
class Page:
    """All of a report."""

    title: str
    command: Sequence[str]
    """Words of the command line."""
    facts: Sequence[tuple[str, str]]
    """What matters most: versions, machine, seeds, the clocks."""
    sections: Sequence[Section]
    host_facts: Sequence[tuple[str, str]] = ()
    """Of the host's clock, which differ from run to run."""
