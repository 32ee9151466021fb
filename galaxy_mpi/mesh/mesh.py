"""The mesh as a table: rank <-> (row, column), groups as its rows and columns."""

import re
from dataclasses import dataclass
from enum import IntEnum

from galaxy_mpi.errors import MeshError

__all__ = ["Axis", "Mesh"]


class Axis(IntEnum):
    """What the groups of a collective are: the columns of the mesh, or its rows.

    The numbers are those of numpy's array axes, and of tt-metal's ``cluster_axis``.
    """

    COLUMN = 0
    """The chips of one column: ``mesh.rows`` of them."""
    ROW = 1
    """The chips of one row: ``mesh.cols`` of them."""

    @property
    def group_name(self) -> str:
        """``column`` or ``row``, as reports and options have it."""
        return self.name.lower()

    @classmethod
    def named(cls, name: str) -> "Axis":
        """Return the axis with a `group_name`.

        Raises
        ------
        KeyError
            If there is none.
        """
        return cls[name.upper()]


@dataclass(frozen=True)
class Mesh:
    """An R x C grid of chips; chip (r, c) is rank ``r * C + c``.

    ::

              c=0  c=1  c=2  c=3
        r=0     0    1    2    3     group(5, ROW)    == (4, 5, 6, 7)
        r=1     4    5    6    7     group(5, COLUMN) == (1, 5, 9, ..., 29)
        ...
        r=7    28   29   30   31

    Examples
    --------
    >>> mesh = Mesh.parse("8x4")
    >>> mesh.coord(5), mesh.group(5, Axis.ROW), mesh.size(Axis.COLUMN)
    ((1, 1), (4, 5, 6, 7), 8)
    """

    rows: int = 8
    cols: int = 4

    def __post_init__(self) -> None:
        if self.rows < 1 or self.cols < 1:
            raise MeshError(f"a mesh needs at least 1 row and 1 column, got {self}")

    def __str__(self) -> str:
        return f"{self.rows}x{self.cols}"

    @classmethod
    def parse(cls, text: str) -> "Mesh":
        """Return the mesh written as ``RxC``.

        Raises
        ------
        MeshError
            If ``text`` is not of that form, or a side is 0.
        """
        match = re.fullmatch(r"(\d{1,4})x(\d{1,4})", str(text).strip().lower())
        if match is None:
            raise MeshError(
                f"a mesh is written ROWSxCOLUMNS, for example 8x4; got {str(text)[:80]!r}"
            )
        return cls(int(match[1]), int(match[2]))

    @property
    def n_chips(self) -> int:
        """Number of chips, which is the number of ranks of a run."""
        return self.rows * self.cols

    def size(self, axis: Axis) -> int:
        """Return how many chips a group along ``axis`` has."""
        return self.rows if axis is Axis.COLUMN else self.cols

    def rank(self, row: int, col: int) -> int:
        """Return the rank of chip (row, col)."""
        return row * self.cols + col

    def coord(self, rank: int) -> tuple[int, int]:
        """Return (row, col) of a rank.

        Raises
        ------
        MeshError
            If ``rank`` is outside the mesh.
        """
        if not 0 <= rank < self.n_chips:
            raise MeshError(f"rank {rank} is outside the {self} mesh of {self.n_chips} chips")
        return divmod(rank, self.cols)

    def group(self, rank: int, axis: Axis) -> tuple[int, ...]:
        """Return the ranks that a collective along ``axis`` joins with ``rank``, in order."""
        row, col = self.coord(rank)
        if axis is Axis.COLUMN:
            return tuple(self.rank(r, col) for r in range(self.rows))
        return tuple(self.rank(row, c) for c in range(self.cols))

    def index(self, rank: int, axis: Axis) -> int:
        """Return the place of ``rank`` in its group along ``axis``."""
        return self.coord(rank)[axis]
