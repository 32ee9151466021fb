"""Session folders that Open MPI's launcher leaves when it is killed.

They are named after its process (``/tmp/ompi.PID``). A later launcher that gets the same number
cannot start: "The PMIx server's listener thread failed to start".
"""

import os
import re
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path

__all__ = ["remove_stale_sessions"]

_NAME = re.compile(r"ompi\.(\d+)")

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


def _is_stale(entry: "os.DirEntry[str]", pid: int) -> bool:
    about = entry.stat(follow_symlinks=False)
    is_mine = about.st_uid == os.getuid() and entry.is_dir(follow_symlinks=False)
    return is_mine and time.time() - about.st_mtime > _OLD_S and not Path(f"/proc/{pid}").exists()
