"""Shared memory of the processes of a host: anonymous files that can grow.

A file (``memfd``) has no name and vanishes with the last process that holds it, however it ends.
Nothing is left in /dev/shm, and its size is no limit. One process of a host creates all files and
passes the descriptors to the others over a socket in Linux's abstract namespace. Anyone on the host
can connect to that, so a caller must be the same user and know a secret that was sent over MPI.
Strangers are ignored, and all waits have a limit.
"""

import errno
import mmap
import os
import socket
import struct
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from galaxy_mpi.arrays import Bytes
from galaxy_mpi.errors import CollectiveError
from galaxy_mpi.mesh.barrier import has_barriers

__all__ = ["GrowingMemory", "Offer", "can_share_memory", "fetch", "make_file", "map_file"]

_GRAIN_BYTES = 1 << 16
_SECRET_BYTES = 16
_FILES_A_MESSAGE = 200
"""Linux passes at most 253 at a time."""

HANDOVER_S = 60.0
"""Time limit of handing over memory to the others of a host."""

_STRANGER_S = 1.0
"""Time limit for a caller to identify itself."""


def can_share_memory() -> bool:
    """Return whether this system has anonymous files, barriers and a way to pass descriptors."""
    return sys.platform == "linux" and hasattr(os, "memfd_create") and has_barriers()


def make_file() -> int:
    """Return a descriptor of a new anonymous file.

    Raises
    ------
    CollectiveError
        If the process may open no more files.
    """
    try:
        return os.memfd_create("galaxy_mpi", os.MFD_CLOEXEC)
    except OSError as error:
        raise CollectiveError(f"no shared memory: {error.strerror}; see `ulimit -n`") from error


def map_file(file: int, n_bytes: int) -> Bytes:
    """Map the first bytes of a file, which is extended if it is shorter.

    Raises
    ------
    CollectiveError
        If there is not enough memory or address space.
    """
    try:
        missing = n_bytes - os.fstat(file).st_size
        if missing > 0:
            # The kernel would rather kill processes than refuse.
            if missing > _available_bytes():
                raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
            # Unlike ftruncate, this never makes a file shorter, so any process may be first; and if
            # memory is missing, it fails here, not with a signal at the first access.
            os.posix_fallocate(file, 0, n_bytes)
        return np.frombuffer(mmap.mmap(file, n_bytes), np.uint8)
    except (OSError, ValueError) as error:
        raise CollectiveError(
            f"no shared memory of {n_bytes} bytes: {error}; see `free` and `ulimit -a`"
        ) from error


def _available_bytes() -> int:
    """Return how much memory of this host is available."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name == "MemAvailable":
            return int(rest.split()[0]) * 1024
    return sys.maxsize


class GrowingMemory:
    """Memory that grows on demand; views of the smaller memory stay valid.

    Parameters
    ----------
    file : int or None
        The file to map. None: private memory of this process, where views from before it grew keep
        their own memory.
    """

    def __init__(self, file: int | None = None) -> None:
        self._file = file
        self._bytes: Bytes = np.zeros(0, np.uint8)

    def __len__(self) -> int:
        return len(self._bytes)

    def at_least(self, n_bytes: int) -> Bytes:
        """Return at least so many bytes, from the beginning."""
        if len(self._bytes) < n_bytes:
            n = -(-n_bytes // _GRAIN_BYTES) * _GRAIN_BYTES
            self._bytes = np.zeros(n, np.uint8) if self._file is None else map_file(self._file, n)
        return self._bytes[:n_bytes]

    def close(self) -> None:
        """Close the file; mapped memory goes with its last view."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


class Offer:
    """Files that one process passes to the others of its host.

    Attributes
    ----------
    address : tuple
        Where to fetch them, including the secret; send it only to the others.
    """

    def __init__(self) -> None:
        name, secret = os.urandom(8).hex(), os.urandom(_SECRET_BYTES)
        self.address = (f"\0galaxy_mpi.{name}", secret)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(self.address[0])
        self._listener.listen(128)

    def hand_over(
        self,
        ranks: Sequence[int],
        files: Callable[[int], Sequence[int]],
        timeout_s: float = HANDOVER_S,
    ) -> None:
        """Return when every process of ``ranks`` has fetched its ``files``.

        Raises
        ------
        CollectiveError
            If one does not fetch them in time.
        """
        missing, until = set(ranks), time.monotonic() + timeout_s
        with self._listener:
            while missing:
                self._listener.settimeout(max(0.01, until - time.monotonic()))
                try:
                    line, _ = self._listener.accept()
                except TimeoutError:
                    raise CollectiveError(
                        f"ranks {sorted(missing)} did not fetch the shared memory of this host in "
                        f"{timeout_s:.0f} s; did they end?"
                    ) from None
                with line:
                    rank = _caller(line, self.address[1])
                    if rank in missing and _send(line, files(rank)):
                        missing.remove(rank)


def fetch(
    address: tuple[str, bytes], rank: int, n_files: int, timeout_s: float = HANDOVER_S
) -> list[int]:
    """Return the files that an `Offer` has for this process.

    Raises
    ------
    CollectiveError
        If they do not arrive in time.
    """
    name, secret = address
    files: list[int] = []
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
            line.settimeout(timeout_s)
            line.connect(name)
            if _user(line) != os.geteuid():
                raise CollectiveError(
                    "a process of another user answered instead of this host's first rank"
                )
            line.sendall(secret + rank.to_bytes(4, "little"))
            while len(files) < n_files:
                data, more, _flags, _from = socket.recv_fds(line, 1, _FILES_A_MESSAGE)
                files += more
                if not data:
                    break
    except OSError as error:
        raise CollectiveError(f"no shared memory from this host's first rank: {error}") from error
    if len(files) != n_files:
        raise CollectiveError(
            f"{len(files)} of {n_files} pieces of shared memory came from this host's first rank; "
            f"see `ulimit -n`"
        )
    return files


def _caller(line: socket.socket, secret: bytes) -> int:
    """Return the rank of a caller, -1 for a stranger."""
    if _user(line) != os.geteuid():
        return -1
    line.settimeout(_STRANGER_S)
    said = b""
    try:
        while len(said) < len(secret) + 4:
            more = line.recv(len(secret) + 4 - len(said))
            if not more:
                return -1
            said += more
    except OSError:
        return -1
    from hmac import compare_digest  # imported here because only one rank per host needs it

    is_known = compare_digest(said[: len(secret)], secret)
    return int.from_bytes(said[len(secret) :], "little") if is_known else -1


def _user(line: socket.socket) -> int:
    """Return the user id at the other end of a socket."""
    said = line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    user: int = struct.unpack("3i", said)[1]
    return user


def _send(line: socket.socket, files: Sequence[int]) -> bool:
    try:
        line.settimeout(HANDOVER_S)
        for begin in range(0, len(files), _FILES_A_MESSAGE):
            socket.send_fds(line, [b"f"], files[begin : begin + _FILES_A_MESSAGE])
    except OSError:
        return False
    return True
