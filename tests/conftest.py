"""Shared by all tests."""

import gc
import os
import signal
import threading
from collections import Counter
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from galaxy_mpi.cli.sessions import remove_stale_sessions

MARKED = {"mpi": ["ranks"], "command": ["ranks", "slow"], "faults": ["ranks", "slow"]}
"""Marks of the tests of a folder."""


def pytest_configure() -> None:
    """Take Ctrl-C as if in the foreground: shells ignore it in the background, for children too."""
    for number in (signal.SIGINT, signal.SIGQUIT):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for name in MARKED.get(item.path.parent.name, ()):
            item.add_marker(getattr(pytest.mark, name))


@pytest.fixture(autouse=True)
def _no_stale_sessions(request: pytest.FixtureRequest) -> None:
    """Remove what killed launchers have left: a launcher of the same number could not start."""
    if request.path.parent.name in ("command", "faults"):
        remove_stale_sessions()


def exact_operand(chip: int, shape: tuple[int, ...]) -> np.ndarray:
    """Small integers as floats: sums over any mesh are exact in any order and in bfloat8_b."""
    return np.random.default_rng(chip).integers(-3, 4, shape).astype(np.float32)


def what_lives() -> dict[str, int]:
    """Return how many there are of the package's objects, by kind, of threads and of files.

    Memory in bytes depends on the machine's allocator; what is leaked shows as one more of these.
    """
    gc.collect()
    kinds = (type(thing) for thing in gc.get_objects())
    found = Counter(
        f"{kind.__module__}.{kind.__qualname__}"
        for kind in kinds
        if str(kind.__module__).partition(".")[0] == "galaxy_mpi"
    )
    return {**found, "threads": threading.active_count(), **open_files()}


def open_files() -> dict[str, int]:
    """Return how many files of each name or kind are open, if the system tells.

    Without those in /proc, which a watchdog's thread may be reading just now.
    """
    found = Counter()
    for path in Path("/proc/self/fd").glob("*"):
        with suppress(OSError):  # closed meanwhile, like that of this listing
            name = os.readlink(path)
            if not name.startswith("/proc/"):
                found["open " + name.partition("[")[0]] += 1
    return dict(found)
