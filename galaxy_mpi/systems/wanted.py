"""The requested precision, before system and model are known: a name or file, and formats."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from galaxy_mpi.errors import ConfigError
from galaxy_mpi.fields import shown
from galaxy_mpi.systems.formats import FormatTable, parse
from galaxy_mpi.systems.precision import FLOAT32_PRECISION, Precision, made_of
from galaxy_mpi.systems.settings import ModelSizes, Setting

if TYPE_CHECKING:
    from galaxy_mpi.systems.table import System

__all__ = ["PRECISION_NAMES", "Wanted"]

PRECISION_NAMES = ("performance", "accuracy", "float32")


@dataclass(frozen=True)
class Wanted:
    """A requested precision.

    Raises
    ------
    ConfigError
        If there is no such precision.
    """

    name: str = "performance"
    optimizations: Path | None = None
    """A file with the groups of each layer; replaces ``name``."""
    changes: str | None = None
    """``TABLE,TENSOR=FORMAT,...``: another table of the system, and other formats."""

    def __post_init__(self) -> None:
        if self.name not in PRECISION_NAMES:
            raise ConfigError(
                f"--precision: no {shown(self.name)}; choose {', '.join(PRECISION_NAMES)}"
            )

    @property
    def is_float32(self) -> bool:
        """Whether nothing is rounded; the device has no such mode."""
        return self.name == "float32" and self.optimizations is None

    def on(self, system: "System", model: ModelSizes) -> Precision:
        """Return the formats of a system for a model.

        Raises
        ------
        ConfigError
            If the file cannot be used.
        """
        if self.is_float32:
            return FLOAT32_PRECISION
        table = self._table(system, model)
        if self.optimizations is None:
            return made_of(self.name, table, [system.settings.choice(self.name, model).setting])
        # Loaded only for a file.
        from galaxy_mpi.systems.optimizations import default_name, read_optimizations

        base = system.settings.choice(default_name(self.optimizations), model).setting
        layers = read_optimizations(self.optimizations, model.n_layers, base)
        return self.of_layers(system, model, layers, self.optimizations.stem)

    def note(self, model: ModelSizes) -> str | None:
        """Return a note on entries of the file that the model has no layers for, if any."""
        if self.optimizations is None:
            return None
        from galaxy_mpi.systems.optimizations import ignored_decoders

        return ignored_decoders(self.optimizations, model.n_layers)

    def of_layers(
        self, system: "System", model: ModelSizes, layers: Sequence[Setting], name: str
    ) -> Precision:
        """Return the formats of a system for a model whose layers have these settings.

        The result equals that of a file with these settings.

        Parameters
        ----------
        layers : sequence of Setting
            One per layer.
        name : str
            Name of the precision.
        """
        made = made_of(name, self._table(system, model), layers)
        return made if made.layers else replace(made, layers=(made,) * model.n_layers)

    def _table(self, system: "System", model: ModelSizes) -> FormatTable:
        if self.changes is None:
            return system.formats.of(model)
        tables = {table.name: table for table in system.other_formats}
        name, changes = parse(self.changes, list(tables))
        return tables.get(name, system.formats).of(model).changed(changes)
