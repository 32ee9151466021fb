"""Which process plays which chips, and which processes therefore synchronise.

A process plays a contiguous block of chips: 0 to N - 1, N to 2 N - 1, and so on. Groups of an
axis whose chips are played by the same processes cross together; such a set of processes is a
*team*.

On an 8x4 mesh with 2 chips per process, the groups of columns 0 and 1 are one team of 8 processes::

              c=0  c=1  c=2  c=3        teams of columns: {0, 2, .., 14}, {1, 3, .., 15}
        r=0   [ 0    0] [ 1    1]       teams of rows: {0, 1}, {2, 3}, ..
        r=1   [ 2    2] [ 3    3]
        ...
"""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from galaxy_mpi.mesh.mesh import Axis, Mesh

__all__ = ["Placement", "Team"]


@dataclass(frozen=True)
class Team:
    """Groups of an axis whose chips are played by the same processes.

    Every process of a team has a chip in each of its groups.
    """

    ranks: tuple[int, ...]
    """The processes, ascending."""
    groups: tuple[tuple[int, ...], ...]
    """The chips of each group, in the order of its members."""

    @cached_property
    def chips(self) -> tuple[int, ...]:
        """All chips, ascending, so that those of a process are adjacent."""
        return tuple(sorted(chip for group in self.groups for chip in group))


class Placement(NamedTuple):
    """Assignment of the chips of a mesh to processes.

    Examples
    --------
    >>> placement = Placement(Mesh(8, 4), 2)
    >>> placement.n_ranks, placement.chips(3), placement.rank_of(7)
    (16, (6, 7), 3)
    >>> [team.ranks for team in placement.teams(Axis.ROW)][:2]
    [(0, 1), (2, 3)]
    """

    mesh: Mesh
    chips_per_rank: int = 1

    @property
    def n_ranks(self) -> int:
        """Number of processes."""
        return self.mesh.n_chips // self.chips_per_rank

    def chips(self, rank: int) -> tuple[int, ...]:
        """Return the chips of a process."""
        first = rank * self.chips_per_rank
        return tuple(range(first, first + self.chips_per_rank))

    def rank_of(self, chip: int) -> int:
        """Return the process that plays a chip."""
        return chip // self.chips_per_rank

    def teams(self, axis: Axis) -> tuple[Team, ...]:
        """Return the teams along an axis, in the order in which every process takes them."""
        mesh = self.mesh
        groups: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
        for group in sorted({mesh.group(chip, axis) for chip in range(mesh.n_chips)}):
            ranks = tuple(sorted({self.rank_of(chip) for chip in group}))
            groups.setdefault(ranks, []).append(group)
        return tuple(Team(ranks, tuple(groups[ranks])) for ranks in sorted(groups))

    def names(self, rank: int) -> str:
        """Return the name of a process in messages: its chips."""
        coords = [str(self.mesh.coord(chip)) for chip in self.chips(rank)]
        if len(coords) == 1:
            return f"chip {coords[0]}"
        return f"chips {coords[0]} to {coords[-1]}"
