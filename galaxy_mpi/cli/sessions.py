"""Folders and files that Open MPI leaves when its launcher is killed.

Session folders are named after the launcher's process (``/tmp/ompi.PID``). A later launcher that
gets the same number cannot start: "The PMIx server's listener thread failed to start".

Each rank has a file of shared memory (``/tmp/sm_segment.HOST.UID.JOB.RANK``, 16 MiB), which
otherwise stays until someone deletes it.
"""

import os
import re
import shutil
import socket
import tempfile
import time
from contextlib import suppress
from pathlib import Path

__all__ = ["remove_stale_segments", "remove_stale_sessions"]

_NAME = re.compile(r"ompi\.(\d+)")

_SEGMENT = re.compile(r"(?:sm|vader)_segment\.(.+)\.\d+\.[0-9a-f]+\.\d+")
"""The group is the name of the host."""

_OLD_S = 60.0
"""A younger folder may be that of a launcher in another namespace of process numbers."""


def remove_stale_sessions(folder: Path | None = None) -> list[str]:
    """Remove this user's session folders whose launcher has ended; return their names.

    Parameters
    ----------
    folder : Path, optional
        Where they are; by default where this environment's launchers put them.
    """
    removed = []
    with suppress(OSError):  # a folder that cannot be listed
        for entry in os.scandir(folder or tempfile.gettempdir()):
            found = _NAME.fullmatch(entry.name)
            with suppress(OSError):  # one that has gone meanwhile
                if found and _is_stale(entry, int(found[1])):
                    shutil.rmtree(entry.path, ignore_errors=True)
                    removed.append(entry.name)
    return removed


def remove_stale_segments(folder: Path) -> list[str]:
    """Remove this user's files of ranks' shared memory that no process has mapped.

    Parameters
    ----------
    folder : Path
        Where Open MPI puts them (``btl_sm_backing_directory``).

    Returns
    -------
    list of str
        Their names.
    """
    removed: list[str] = []
    with suppress(OSError):  # a folder that cannot be listed
        old = [entry for entry in os.scandir(folder) if _is_old_segment(entry)]
        mapped = _mapped_segments() if old else ""
        for entry in old:
            with suppress(OSError):
                if f"/{entry.name}\n" not in mapped:
                    os.unlink(entry.path)
                    removed.append(entry.name)
    return removed


def _is_old_segment(entry: "os.DirEntry[str]") -> bool:
    found = _SEGMENT.fullmatch(entry.name)
    if not found or found[1] not in (socket.gethostname(), socket.gethostname().split(".")[0]):
        return False
    with suppress(OSError):
        about = entry.stat(follow_symlinks=False)
        is_mine = about.st_uid == os.getuid() and entry.is_file(follow_symlinks=False)
        return is_mine and time.time() - about.st_mtime > _OLD_S
    return False


def _mapped_segments() -> str:
    """Return the lines about such files in the memory maps of all processes of this user."""
    lines: list[str] = []
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with suppress(OSError):  # another user's, or one that has ended
            text = maps.read_text(errors="replace")
            lines += [line for line in text.splitlines() if "_segment." in line]
    return "\n".join(lines) + "\n"


def _is_stale(entry: "os.DirEntry[str]", pid: int) -> bool:
    about = entry.stat(follow_symlinks=False)
    is_mine = about.st_uid == os.getuid() and entry.is_dir(follow_symlinks=False)
    return is_mine and time.time() - about.st_mtime > _OLD_S and not Path(f"/proc/{pid}").exists()
