"""One line of the doctor."""

from dataclasses import dataclass
from enum import Enum

from galaxy_mpi.output import folded

__all__ = ["Finding", "Level"]


class Level(Enum):
    """How much a finding matters."""

    GOOD = "good"
    """Nothing to do."""
    NOTE = "note"
    """Works, but with limitations."""
    BAD = "bad"
    """Runs fail."""


@dataclass(frozen=True)
class Finding:
    """Result of one check."""

    name: str
    level: Level
    found: str
    advice: str = ""
    """What to do; empty if there is nothing to do."""

    def to_text(self) -> str:
        """Return one line, or several if it is longer than 80 columns."""
        line = f"{self.level.value:<5}{self.name:<14}{self.found}"
        return folded(f"{line}; {self.advice}" if self.advice else line, " " * 19)

    def to_json(self) -> dict[str, str]:
        """Return it as JSON values."""
        return {
            "name": self.name,
            "level": self.level.value,
            "found": self.found,
            "advice": self.advice,
        }
