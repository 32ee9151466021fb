"""The last events of a rank, in a mapped file that survives however the rank ends.

An event is an exchange, an unpacked weight, or the beginning of a step, and takes a copy of 128
bytes to write. A successful run removes its file.
"""

import itertools
import mmap
import os
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from galaxy_mpi.errors import ConfigError
from galaxy_mpi.mesh.plane import Crossing
from galaxy_mpi.weights import WeightId

__all__ = ["N_EVENTS", "Event", "Flight", "Recorder", "read_flights", "recording"]

N_EVENTS = 1000
"""Events that a rank keeps."""

_HEAD = struct.Struct("<8sQ48s")
_EVENT = struct.Struct("<QQd104s")
_MAGIC = b"gmflight"
_SUFFIX = ".flight"


@dataclass(frozen=True)
class Event:
    """One line of a rank's record."""

    number: int
    """Number among all events of the rank, from 1."""
    crossing: int
    """How many exchanges the rank had begun, including this one."""
    at_s: float
    """Seconds since 1970, by the rank's host."""
    text: str


@dataclass(frozen=True)
class Flight:
    """The record of a rank."""

    rank: int
    host: str
    events: tuple[Event, ...]
    """Events in order."""


class Recorder:
    """Keeps the last events of this process.

    Parameters
    ----------
    memory : mmap
        As large as `_HEAD` and `N_EVENTS` times `_EVENT`.
    """

    def __init__(self, memory: mmap.mmap, rank: int) -> None:
        self._memory, self._numbers = memory, itertools.count(1)  # weights come from a thread
        self._n_crossings = 0
        _HEAD.pack_into(memory, 0, _MAGIC, rank, socket.gethostname().encode()[:48])

    def crossing(self, crossing: Crossing) -> None:
        """Record that an exchange begins."""
        self._n_crossings += 1
        self._note(crossing.label.text)

    def weight(self, weight: WeightId) -> None:
        """Record that a weight is about to be unpacked."""
        self._note(f"unpack {weight}")

    def step(self, step: int) -> None:
        """Record that a decode step begins."""
        self._note(f"decode step {step + 1}")

    def _note(self, text: str) -> None:
        number = next(self._numbers)
        place = _HEAD.size + (number - 1) % N_EVENTS * _EVENT.size
        line = text.encode("utf-8", "replace")[:104]
        _EVENT.pack_into(self._memory, place, number, self._n_crossings, time.time(), line)


@contextmanager
def recording(folder: Path, rank: int) -> Iterator[Recorder]:
    """Yield a recorder whose file is removed if the body succeeds.

    Raises
    ------
    ConfigError
        If the file cannot be created.
    """
    path = folder / f"rank-{rank:05}{_SUFFIX}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with path.open("w+b") as file:
            os.posix_fallocate(file.fileno(), 0, _HEAD.size + N_EVENTS * _EVENT.size)
            memory = mmap.mmap(file.fileno(), 0)
    except OSError as error:
        raise ConfigError(f"--flight {folder} cannot be written: {error.strerror}") from None
    yield Recorder(memory, rank)
    path.unlink(missing_ok=True)


def read_flights(folder: Path) -> list[Flight]:
    """Return the records of the ranks in a folder, in order of rank.

    Raises
    ------
    ConfigError
        If there are no records, or invalid ones.
    """
    flights = []
    for path in sorted(folder.glob(f"*{_SUFFIX}")):
        try:
            raw = path.read_bytes()
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
        if len(raw) != _HEAD.size + N_EVENTS * _EVENT.size or not raw.startswith(_MAGIC):
            raise ConfigError(f"{path} is not the record of a rank, or is truncated")
        _, rank, host = _HEAD.unpack_from(raw)
        events = sorted(e for e in _EVENT.iter_unpack(raw[_HEAD.size :]) if e[0])
        flights.append(
            Flight(
                rank,
                _text(host),
                tuple(Event(n, crossing, at, _text(text)) for n, crossing, at, text in events),
            )
        )
    if not flights:
        raise ConfigError(f"{folder} has no records of ranks (*{_SUFFIX}): did the run succeed?")
    return flights


def _text(raw: bytes) -> str:
    return raw.rstrip(b"\0").decode("utf-8", "replace")
