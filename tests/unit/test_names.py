"""The page of names, and the glossary."""

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


def test_the_glossary_has_twenty_words_at_most_and_those_that_tables_print():
    text = PAGE.with_name("ARCHITECTURE.md").read_text("utf-8")
    section = text.partition("## Glossary\n")[2].partition("\n## ")[0]
    words = re.findall(r"^\| ([\w ]+) \| .+ \|$", section, re.M)[1:]
    assert len(set(words)) == len(words) <= 20
    assert {"rank", "block float", "PCC", "device time"} <= set(words)
