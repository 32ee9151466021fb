"""The page of names."""

import importlib
import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "NAMES.md"


def test_every_name_of_ours_on_the_page_of_names_is_there():
    """Dotted names of the right-hand columns can be imported."""
    names = set(re.findall(r"`(galaxy_mpi\.[\w.]+)`", PAGE.read_text("utf-8")))
    assert len(names) > 30
    for name in names:
        parts = name.split(".")
        for cut in range(len(parts), 0, -1):
            try:
                found = importlib.import_module(".".join(parts[:cut]))
                break
            except ImportError:
                continue
        for part in parts[cut:]:
            found = getattr(found, part)
