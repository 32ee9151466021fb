"""The profiles of machines that ship with the package."""

from pathlib import Path

__all__ = ["FOLDER", "MACHINES"]

FOLDER = Path(__file__).parent / "machines"

MACHINES = tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))
"""Their names."""
