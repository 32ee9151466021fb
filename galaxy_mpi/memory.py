"""Available memory of this host, and whether something fits."""

import os
from contextlib import suppress
from pathlib import Path

from galaxy_mpi.errors import ConfigError

__all__ = ["available_bytes", "check_fits", "free_disk_bytes"]


def available_bytes(
    meminfo: Path = Path("/proc/meminfo"), groups: Path = Path("/sys/fs/cgroup")
) -> int | None:
    """Return the available bytes of this host or container; None if unknown.

    Parameters
    ----------
    meminfo : Path
        The kernel's figures of the host.
    groups : Path
        Where control groups are mounted.
    """
    told = []
    try:
        words = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        told.append(sum(int(words[n].split()[0]) * 1024 for n in ("MemAvailable", "SwapFree")))
    except (OSError, ValueError, KeyError, IndexError):
        pass
    names = (
        ("memory.max", "memory.current", "memory.stat", "inactive_file"),
        (
            "memory/memory.limit_in_bytes",
            "memory/memory.usage_in_bytes",
            "memory/memory.stat",
            "total_inactive_file",
        ),
    )
    for most, used, stat, cached in names:
        try:
            of_files = dict(line.split() for line in (groups / stat).read_text().splitlines())
            limit, now = (int((groups / name).read_text()) for name in (most, used))
            told.append(max(0, limit - now + int(of_files[cached])))
        except (OSError, ValueError, KeyError):  # no limit is the word "max"
            continue
    return min(told) if told else None


def free_disk_bytes(folder: Path) -> int:
    """Return the bytes that may be written to a folder, or to where it will be made."""
    for each in (folder, *folder.absolute().parents):
        with suppress(OSError):
            found = os.statvfs(each)
            return found.f_bavail * found.f_frsize
    return 0


def check_fits(n_bytes: int, what: str, available: int | None) -> None:
    """Raise if something does not fit in the available memory.

    Raises
    ------
    ConfigError
        With both numbers, before anything has been read.
    """
    if available is not None and n_bytes > available:
        raise ConfigError(
            f"{what} need {n_bytes / 2**30:.1f} GiB and this host has {available / 2**30:.1f} GiB "
            f"available; use --layers, another --precision, a smaller model or more hosts "
            f"(`python -m galaxy_mpi.doctor` shows what is available)"
        )
