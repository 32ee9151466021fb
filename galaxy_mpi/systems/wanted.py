"""What a user asks for, before system and model are known: a name or a file, and other formats."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from galaxy_mpi.errors import ConfigError
from galaxy_mpi.fields import shown
from galaxy_mpi.systems.formats import parse
from galaxy_mpi.systems.optimizations import default_name, read_optimizations
from galaxy_mpi.systems.precision import FLOAT32_PRECISION, Precision, made_of
from galaxy_mpi.systems.settings import ModelSizes

if TYPE_CHECKING:
    from galaxy_mpi.systems.table import System

__all__ = ["PRECISION_NAMES", "Wanted"]

PRECISION_NAMES = ("performance", "accuracy", "float32")


@dataclass(frozen=True)
class Wanted:
    """Formats that are asked for.

    Raises
    ------
    ConfigError
        If there is no precision of that name.
    """

    name: str = "performance"
    optimizations: Path | None = None
    """A file with the groups of each layer, instead of ``name``."""
    changes: str | None = None
    """``TENSOR=FORMAT,...``: what is stored otherwise than the system's table says."""

    def __post_init__(self) -> None:
        if self.name not in PRECISION_NAMES:
            raise ConfigError(
                f"no precision {shown(self.name)}; choose {', '.join(PRECISION_NAMES)}"
            )
        if self.changes is not None:
            parse(self.changes)

    @property
    def is_float32(self) -> bool:
        """Whether nothing is rounded: the device has no such formats."""
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
        table = system.formats.of(model)
        if self.changes is not None:
            table = table.changed(parse(self.changes))
        if self.optimizations is None:
            return made_of(self.name, table, [system.settings.choice(self.name, model).setting])
        base = system.settings.choice(default_name(self.optimizations), model).setting
        layers = read_optimizations(self.optimizations, model.n_layers, base)
        made = made_of(self.optimizations.stem, table, layers)
        return made if made.layers else replace(made, layers=(made,) * model.n_layers)
