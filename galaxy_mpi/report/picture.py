"""Where the chips and links of a mesh are drawn: numbers for the template of the picture."""

from collections.abc import Iterator
from dataclasses import dataclass

from galaxy_mpi.report.palette import colour_of
from galaxy_mpi.report.parts import ChipView, LinkView, MeshPicture

__all__ = ["Drawing", "drawing_of"]

_WIDTH, _HEIGHT = 136, 58
"""Of a chip's box."""
_GAP_X, _GAP_Y, _EDGE = 64, 40, 40
_STUB = 24
"""Length of the stub of a link that goes round to the other edge."""


_MOST_NAMED = 256
"""Largest number of chips for which each link is labelled with its bytes."""


@dataclass(frozen=True)
class _Slice:
    x: float
    width: float
    colour: str


@dataclass(frozen=True)
class _Box:
    chip: ChipView
    x: float
    y: float
    slices: list[_Slice]


@dataclass(frozen=True)
class _Wire:
    """A line of the picture; two for a link that goes round to the other edge."""

    link: LinkView
    x1: float
    y1: float
    x2: float
    y2: float
    thickness: float
    text_x: float
    text_y: float
    has_text: bool


@dataclass(frozen=True)
class _Wires:
    """Links with equal figures, in a mesh that is too large to label each."""

    path: str
    """Of SVG."""
    thickness: float
    mark: str


@dataclass(frozen=True)
class Drawing:
    """Everything with its place, in pixels."""

    width: float
    height: float
    box_width: float
    box_height: float
    boxes: list[_Box]
    wires: list[_Wire]
    """Each with its bytes; of large meshes there are ``alike`` instead."""
    alike: list[_Wires]


def drawing_of(picture: MeshPicture) -> Drawing:
    """Return the places of all chips and links."""
    wires = [wire for link in picture.links for wire in _wires(link, picture)]
    is_large = len(picture.chips) > _MOST_NAMED
    return Drawing(
        width=2 * _EDGE + picture.cols * _WIDTH + (picture.cols - 1) * _GAP_X,
        height=2 * _EDGE + picture.rows * _HEIGHT + (picture.rows - 1) * _GAP_Y,
        box_width=_WIDTH,
        box_height=_HEIGHT,
        boxes=[_Box(chip, *_place(chip.row, chip.col), _slices(chip)) for chip in picture.chips],
        wires=[] if is_large else wires,
        alike=list(_alike(wires)) if is_large else [],
    )


def _alike(wires: list[_Wire]) -> Iterator[_Wires]:
    paths: dict[tuple[float, str], list[str]] = {}
    for wire in wires:
        line = f"M{wire.x1:g} {wire.y1:g}L{wire.x2:g} {wire.y2:g}"
        paths.setdefault((wire.thickness, wire.link.mark), []).append(line)
    for (thickness, mark), lines in paths.items():
        yield _Wires("".join(lines), thickness, mark)


def _place(row: int, col: int) -> tuple[float, float]:
    return _EDGE + col * (_WIDTH + _GAP_X), _EDGE + row * (_HEIGHT + _GAP_Y)


def _slices(chip: ChipView) -> list[_Slice]:
    total, at, found = sum(chip.shares.values()) or 1.0, 0.0, []
    room = _WIDTH - 12
    for name, seconds in chip.shares.items():
        width = room * seconds / total
        if width >= 0.01:
            found.append(_Slice(round(6 + at, 2), round(width, 2), colour_of(name)))
        at += width
    return found


def _wires(link: LinkView, picture: MeshPicture) -> Iterator[_Wire]:
    x, y = _place(link.row, link.col)
    thickness = round(1.5 + 6 * min(1.0, link.load), 2)
    if link.along_rows:
        middle, below = x + _WIDTH / 2, y + _HEIGHT
        if link.row + 1 < picture.rows:
            end = below + _GAP_Y
            yield _Wire(link, middle, below, middle, end, thickness, middle + 8, below + 24, True)
        else:
            end = below + _STUB
            yield _Wire(link, middle, below, middle, end, thickness, middle + 8, below + 18, True)
            top = _EDGE
            yield _Wire(link, middle, top, middle, top - _STUB, thickness, 0, 0, False)
        return
    right, middle = x + _WIDTH, y + _HEIGHT / 2
    if link.col + 1 < picture.cols:
        end = right + _GAP_X
        yield _Wire(link, right, middle, end, middle, thickness, right + 6, middle - 7, True)
    else:
        end = right + _STUB
        yield _Wire(link, right, middle, end, middle, thickness, right + 2, middle - 7, False)
        yield _Wire(link, _EDGE, middle, _EDGE - _STUB, middle, thickness, 0, 0, False)
