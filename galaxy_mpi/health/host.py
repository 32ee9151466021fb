"""Checks of the host: processors, memory, descriptors, name, space in folders."""

import errno
import os
import resource
import shutil
import socket
import tempfile
from pathlib import Path

from galaxy_mpi.checkpoints import cache_folder
from galaxy_mpi.health.finding import Finding, Level
from galaxy_mpi.memory import available_bytes

__all__ = ["cores", "finding_about", "host_findings"]

_RANK_BYTES, _SHARED_BYTES = 34 * 2**20, 130 * 2**20
"""Host memory (PSS) of each rank, and of the code that they share, without the model: 166 MiB for
one rank and 1152 MiB for 32, as the summary of a run says (Python, numpy, MPI, the demo)."""

_RANK_DESCRIPTORS = 64
"""Descriptors of a rank of a full Galaxy; mpirun opens about as many per rank."""

_LONGEST_SOCKET_NAME = 60
"""Of a folder in which MPI makes sockets: their whole names may have 107 bytes."""

GIB = 2**30


def host_findings(n_ranks: int) -> list[Finding]:
    """Check the host, for runs of ``n_ranks`` ranks."""
    return [
        _cores(n_ranks),
        _memory(n_ranks),
        _shared_memory(),
        _descriptors(n_ranks),
        _address_space(),
        _name(),
        _temporary(),
        _cache(),
    ]


def finding_about(error: BaseException, n_ranks: int) -> Finding | None:
    """Return what is wrong with the resource that an error is about; None if nothing is.

    Parameters
    ----------
    error : BaseException
        Of memory, descriptors or space on a disk; others give None.
    n_ranks : int
        Of the run that failed.
    """
    number = error.errno if isinstance(error, OSError) else None
    if isinstance(error, MemoryError) or number == errno.ENOMEM:
        found = [_address_space(), _memory(n_ranks)]
    elif number in (errno.EMFILE, errno.ENFILE):
        found = [_descriptors(n_ranks)]
    elif number == errno.ENOSPC:
        found = [_temporary(), _cache()]
    else:
        found = []
    return next((each for each in found if each.level is not Level.GOOD), None)


def cores() -> tuple[int, float | None]:
    """Return the cores that this process may use, and the quota of its control group in cores."""
    affinity = getattr(os, "sched_getaffinity", None)
    n = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
    return n, cgroup_quota(Path("/sys/fs/cgroup"))


def cgroup_quota(root: Path) -> float | None:
    """Return how many cores a control group may use; None: all.

    Parameters
    ----------
    root : Path
        Where control groups are mounted, of version 2 or 1.
    """
    try:
        words = (root / "cpu.max").read_text().split()
    except OSError:
        try:
            words = [
                (root / "cpu" / f"cpu.cfs_{name}_us").read_text().strip()
                for name in ("quota", "period")
            ]
        except OSError:
            return None
    try:
        return int(words[0]) / int(words[1]) if int(words[0]) > 0 else None
    except (ValueError, IndexError, ZeroDivisionError):
        return None


def _cores(n_ranks: int) -> Finding:
    n, quota = cores()
    found = f"{n} cores for {n_ranks} ranks"
    if quota is not None:
        found += f", of which the control group gives {quota:g}"
    if quota is not None and quota < n:
        return Finding("cores", Level.NOTE, found, "raise the container's quota for more speed")
    if n < n_ranks:
        return Finding("cores", Level.GOOD, f"{found}, which share them")
    return Finding("cores", Level.GOOD, found)


def _memory(n_ranks: int) -> Finding:
    free, need = available_bytes(), _SHARED_BYTES + n_ranks * _RANK_BYTES
    if free is None:
        return Finding("memory", Level.NOTE, "unknown on this system")
    found = f"{free / GIB:.1f} GiB available, {n_ranks} ranks need {need / GIB:.1f} plus the model"
    if free < need:
        advice = "end other programs, raise the container's limit, or use --chips-per-rank"
        return Finding("memory", Level.BAD, found, advice)
    return Finding("memory", Level.GOOD, found)


def _shared_memory() -> Finding:
    try:
        n_bytes = shutil.disk_usage("/dev/shm").free
    except OSError:
        return Finding("/dev/shm", Level.NOTE, "is not there", "MPI may need it; mount a tmpfs")
    found = f"{n_bytes / 2**20:,.0f} MiB free (not needed: chips share memory without it)"
    return Finding("/dev/shm", Level.GOOD, found)


def _descriptors(n_ranks: int) -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    need = _RANK_DESCRIPTORS + 8 * n_ranks
    found = f"limit {_limit(soft)} per process, {need} needed"
    if soft != resource.RLIM_INFINITY and soft < need:
        wanted = need if hard == resource.RLIM_INFINITY else min(need, hard)
        return Finding("descriptors", Level.BAD, found, f"`ulimit -n {wanted}` in the shell")
    return Finding("descriptors", Level.GOOD, found)


def _address_space() -> Finding:
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY and soft < 8 * GIB:
        found = f"limit {soft / GIB:.1f} GiB per process"
        return Finding("address space", Level.BAD, found, "`ulimit -v unlimited` in the shell")
    return Finding("address space", Level.GOOD, "not limited" if soft < 0 else _limit(soft))


def _name() -> Finding:
    name = socket.gethostname()
    try:
        addresses = sorted({str(info[4][0]) for info in socket.getaddrinfo(name, None)})
    except OSError as error:
        advice = "add it to /etc/hosts for runs over several hosts"
        return Finding("host name", Level.NOTE, f"{name} has no address ({error.strerror})", advice)
    return Finding("host name", Level.GOOD, f"{name}, {' '.join(addresses[:3])}")


def _temporary() -> Finding:
    try:
        folder = tempfile.gettempdir()
    except OSError as error:
        advice = "set TMPDIR to a folder that can be written to"
        return Finding("temporary", Level.BAD, str(error), advice)
    if len(os.fsencode(folder)) > _LONGEST_SOCKET_NAME:
        found = f"TMPDIR is {len(os.fsencode(folder))} bytes long, MPI makes sockets there"
        return Finding("temporary", Level.NOTE, found, "set TMPDIR to a shorter one, such as /tmp")
    free = shutil.disk_usage(folder).free
    found = f"{folder}, {free / GIB:.1f} GiB free"
    if free < 256 * 2**20:
        return Finding(
            "temporary", Level.NOTE, found, "free some space: MPI keeps its session there"
        )
    return Finding("temporary", Level.GOOD, found)


def _cache() -> Finding:
    folder = cache_folder()
    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    if not os.access(there, os.W_OK | os.X_OK):
        advice = "set XDG_CACHE_HOME to keep packed weights for the next run (optional)"
        return Finding("cache", Level.NOTE, f"{folder} cannot be written to", advice)
    free = shutil.disk_usage(there).free
    return Finding("cache", Level.GOOD, f"{folder}, {free / GIB:.1f} GiB free")


def _limit(value: int) -> str:
    return "any number" if value == resource.RLIM_INFINITY else f"{value:,}"
