"""The locks hold all that the set-up installs, with hashes, in the versions of constraints.txt."""

import re
from importlib.metadata import distribution, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
LOCKS = sorted((ROOT / "locks").glob("*.txt"))
NOT_LOCKED = "torch"


def lines_of(path: Path) -> list[str]:
    """Return a requirement with its hashes for each entry of a file."""
    text = path.read_text().replace(" \\\n", " ")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def here(path: Path) -> dict[str, str]:
    """Return the versions by name that a file has for this Python."""
    found = [Requirement(line.partition(" --hash")[0]) for line in lines_of(path)]
    return {
        canonicalize_name(one.name): str(one.specifier)
        for one in found
        if one.marker is None or one.marker.evaluate()
    }


def needed(names: list[str], extras: set[str]) -> set[str]:
    """Return all that packages need with extras, as what is installed says."""
    found: set[str] = set()
    waiting = [(name, frozenset(extras)) for name in names]
    while waiting:
        name, wanted = waiting.pop()
        for text in requires(name) or ():
            one = Requirement(text)
            if one.marker is None or any(one.marker.evaluate({"extra": e}) for e in ("", *wanted)):
                child = canonicalize_name(one.name)
                if child != NOT_LOCKED and (child == "galaxy-mpi" or child not in found):
                    found.add(child)
                    waiting.append((child, frozenset(one.extras)))
    return found - {"galaxy-mpi"}


def test_every_extra_has_a_lock():
    extras = distribution("galaxy_mpi").metadata.get_all("Provides-Extra")
    assert {path.stem for path in LOCKS} >= {"base", "tools", *extras}


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.stem)
def test_every_entry_is_a_version_with_hashes_that_constraints_have_too(path):
    pinned = here(ROOT / "constraints.txt")
    for line in lines_of(path):
        assert re.match(r"[\w.-]+(\[\w+\])?==[\w.]+ ", line), line
        assert re.search(r"--hash=sha256:[0-9a-f]{64}\b", line), line
    assert {name: pinned.get(name) for name in here(path)} == here(path)


@pytest.mark.parametrize("extra", ["", "test"])
def test_what_the_set_up_needs_is_locked(extra):
    locked = set(here(ROOT / "locks" / "base.txt"))
    if extra:
        locked |= set(here(ROOT / "locks" / f"{extra}.txt"))
    assert needed(["galaxy_mpi"], {extra} - {""}) <= locked
