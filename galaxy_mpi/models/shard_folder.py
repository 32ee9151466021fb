"""The folder of packed shards: its owner, its content, and what is removed.

::

    FOLDER / a model's fingerprint / mesh, precision, layers / rank000.safetensors ...

Nothing else in a folder is ever looked at or removed.
"""

import os
import re
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

__all__ = [
    "KEPT_BYTES",
    "KEPT_DAYS",
    "Entry",
    "draft_path",
    "entries",
    "is_private",
    "make_private",
    "prune",
    "remove",
    "remove_drafts",
]

KEPT_DAYS = 30
"""Shards that no run has read for so long are removed."""

KEPT_BYTES = 64 * 2**30
"""Of all shards; those that were not used for longest go first."""

_DAY_S = 24 * 3600

_MODEL = re.compile(r"[0-9a-f]{32}")
_FILE = re.compile(r"rank\d{3,}\.safetensors")
_DRAFT = re.compile(r"\.draft-(?P<node>.*)-(?P<pid>\d+)-[0-9a-f]{8}|\.rank\d{3,}\.safetensors\.\d+")
"""The second form is that of earlier versions."""


class Entry(NamedTuple):
    """The shards of one model on one mesh in one precision."""

    folder: Path
    n_files: int
    n_bytes: int
    used_s: float
    """When a run last read or wrote them, seconds since 1970."""


def is_private(status: os.stat_result) -> bool:
    """Return whether a file or folder is this user's, and no other user may write to it."""
    mine = status.st_uid == os.geteuid()
    kind = stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)
    return mine and kind and not status.st_mode & 0o022


def make_private(folder: Path) -> None:
    """Make a folder of shards, and that of its model, for this user only.

    Raises
    ------
    OSError
        If they cannot be made, or are there and not this user's alone.
    """
    folder.parent.parent.mkdir(0o700, parents=True, exist_ok=True)
    for each in (folder.parent, folder):
        each.mkdir(0o700, exist_ok=True)
        if not is_private(os.lstat(each)):
            raise PermissionError(f"{each} is another user's, or open to others")


def draft_path(path: Path) -> Path:
    """Return a name for a file that is being written; it contains the writing process."""
    name = f".draft-{os.uname().nodename}-{os.getpid()}-{os.urandom(4).hex()}"
    return path.with_name(name)


def remove_drafts(folder: Path) -> None:
    """Remove drafts of runs that are no more."""
    for path in _files(folder):
        match = _DRAFT.fullmatch(path.name)
        if match is not None and _is_left_over(path, match):
            with suppress(OSError):
                path.unlink()


def entries(root: Path) -> list[Entry]:
    """Return what is in a folder of shards, the last used first."""
    found = []
    for model in _folders(root):
        if _MODEL.fullmatch(model.name):
            for folder in _folders(model):
                files = [path for path in _files(folder) if _FILE.fullmatch(path.name)]
                stats = [status for status in map(_status, files) if status is not None]
                if stats:
                    n_bytes = sum(status.st_size for status in stats)
                    used_s = max(status.st_mtime for status in stats)
                    found.append(Entry(folder, len(stats), n_bytes, used_s))
    return sorted(found, key=lambda entry: -entry.used_s)


def prune(
    root: Path,
    *,
    keep: Path | None = None,
    days: float = KEPT_DAYS,
    n_bytes: float = KEPT_BYTES,
) -> list[Entry]:
    """Remove what was not used for long, and the oldest of what is too much; return it.

    Parameters
    ----------
    root : Path
    keep : Path, optional
        A folder of shards that is in use.
    days : float
    n_bytes : float
    """
    removed, total, now_s = [], 0, time.time()
    known = entries(root)
    for entry in sorted(known, key=lambda entry: entry.folder != keep):  # the kept one counts first
        total += entry.n_bytes
        is_old = now_s - entry.used_s > days * _DAY_S
        if entry.folder != keep and (is_old or total > n_bytes):
            remove(entry)
            removed.append(entry)
            total -= entry.n_bytes
    for model in _folders(root):
        if _MODEL.fullmatch(model.name):
            for folder in _folders(model):
                remove_drafts(folder)
    return removed


def remove(entry: Entry) -> None:
    """Remove an entry; runs that have mapped it keep what they have."""
    for path in _files(entry.folder):
        if _FILE.fullmatch(path.name) or _DRAFT.fullmatch(path.name):
            with suppress(OSError):
                path.unlink()
    for folder in (entry.folder, entry.folder.parent):
        with suppress(OSError):  # another file is in it
            folder.rmdir()


def _is_left_over(path: Path, match: re.Match[str]) -> bool:
    status = _status(path)
    if status is None:
        return False
    if match["pid"] is not None and match["node"] == os.uname().nodename:
        return not Path("/proc", match["pid"]).exists()
    return time.time() - status.st_mtime > _DAY_S


def _status(path: Path) -> os.stat_result | None:
    with suppress(OSError):
        return path.lstat()
    return None


def _folders(root: Path) -> Iterator[Path]:
    return (Path(entry.path) for entry in _scan(root) if entry.is_dir(follow_symlinks=False))


def _files(folder: Path) -> Iterator[Path]:
    return (Path(entry.path) for entry in _scan(folder) if entry.is_file(follow_symlinks=False))


def _scan(folder: Path) -> list["os.DirEntry[str]"]:
    with suppress(OSError), os.scandir(folder) as found:
        return sorted(found, key=lambda entry: entry.name)
    return []
