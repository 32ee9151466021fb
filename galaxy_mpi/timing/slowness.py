"""Slow chips and links."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from galaxy_mpi.errors import ConfigError, refuse_twice
from galaxy_mpi.mesh import Axis, Mesh

__all__ = ["Slowness"]


@dataclass(frozen=True)
class Slowness:
    """Slow chips and links, each with its factor."""

    chips: dict[tuple[int, int], float] = field(default_factory=dict)
    """By (row, column): its ops take this many times as long."""
    links: dict[tuple[int, int, Axis], float] = field(default_factory=dict)
    """By (row, column, axis): the link from that chip to the next along the axis takes this many
    times as long. A collective runs at the pace of the slowest link of its group."""

    @classmethod
    def parse(cls, chips: Sequence[str], links: Sequence[str], mesh: Mesh) -> "Slowness":
        """Read ``ROW,COLUMN,FACTOR`` and ``ROW,COLUMN,row|column,FACTOR``.

        Raises
        ------
        ConfigError
            If a text is malformed, a chip is outside the mesh, or a factor is out of range.

        Examples
        --------
        >>> Slowness.parse(["3,1,2.5"], [], Mesh(8, 4)).chips
        {(3, 1): 2.5}
        """
        slow_chips: dict[tuple[int, int], float] = {}
        slow_links: dict[tuple[int, int, Axis], float] = {}
        for text in chips:
            try:
                row, col, factor = text.split(",")
                slow_chips[int(row), int(col)] = float(factor)
            except ValueError:
                raise ConfigError(
                    f"--slow-chip is ROW,COLUMN,FACTOR, for example 3,1,2.5; got {text!r}"
                ) from None
        for text in links:
            try:
                row, col, axis, factor = text.split(",")
                slow_links[int(row), int(col), Axis.named(axis)] = float(factor)
            except (ValueError, KeyError):
                raise ConfigError(
                    f"--slow-link is ROW,COLUMN,row|column,FACTOR, for example 3,1,row,2.5; "
                    f"got {text!r}"
                ) from None
        for option, texts, parts in (("--slow-chip", chips, 2), ("--slow-link", links, 3)):
            named = [text.replace(" ", "").split(",")[:parts] for text in texts]
            refuse_twice(option, [",".join(words) for words in named])
        for option, factors in (("--slow-chip", slow_chips), ("--slow-link", slow_links)):
            for (row_, col_, *_), factor_ in factors.items():
                if not (0 <= row_ < mesh.rows and 0 <= col_ < mesh.cols):
                    raise ConfigError(
                        f"{option}: chip ({row_}, {col_}) is outside the {mesh} mesh: rows 0 to "
                        f"{mesh.rows - 1}, columns 0 to {mesh.cols - 1}"
                    )
                if not 1e-6 < factor_ < 1e6:
                    raise ConfigError(
                        f"{option}: the factor at chip ({row_}, {col_}) must be above 1e-6 and "
                        f"below 1e6, got {factor_}"
                    )
        return cls(slow_chips, slow_links)

    def moved(self, mesh: Mesh, to: Mesh) -> "Slowness":
        """Return the same chips and links on another mesh with the same ranks.

        That is the same mesh, or a row of chips turned into a column.
        """
        if mesh == to:
            return self
        chips = {to.coord(mesh.rank(*chip)): factor for chip, factor in self.chips.items()}
        links = {
            (*to.coord(mesh.rank(row, col)), Axis(1 - axis)): factor
            for (row, col, axis), factor in self.links.items()
        }
        return Slowness(chips, links)

    def chip_factors(self, mesh: Mesh) -> NDArray[np.float64]:
        """Return the factor of each chip's ops, shape (R, C)."""
        factors = np.ones((mesh.rows, mesh.cols))
        for chip, factor in self.chips.items():
            factors[chip] = factor
        return factors

    def wire_factors(self, mesh: Mesh, axis: Axis) -> NDArray[np.float64]:
        """Return the factor of the slowest link of each chip's group, shape (R, C)."""
        factors = np.ones((mesh.rows, mesh.cols))
        for (row, col, along), factor in self.links.items():
            if along is axis:
                group = np.s_[:, col] if axis is Axis.COLUMN else np.s_[row, :]
                factors[group] = np.maximum(factors[group], factor)
        return factors
