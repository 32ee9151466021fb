"""The last events of a rank, in a file that it maps: they are there however the rank ends.

An event is a crossing, a weight that is unpacked, or the beginning of a step. Writing one is a copy
of 128 bytes. A run that ends well removes its file.
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
from galaxy_mpi.prefetch import WeightId

__all__ = ["N_EVENTS", "Event", "Flight", "Recorder", "read_flights", "recording"]

N_EVENTS = 1000
"""That a rank keeps."""

_HEAD = struct.Struct("<8sQ48s")
_EVENT = struct.Struct("<QQd104s")
_MAGIC = b"gmflight"
_SUFFIX = ".flight"


@dataclass(frozen=True)
class Event:
    """One line of a rank's record."""

    number: int
    """Of all events of the rank, from 1."""
    crossing: int
    """How many crossings the rank had begun, this one included."""
    at_s: float
    """Seconds since 1970, by the rank's host."""
    text: str


@dataclass(frozen=True)
class Flight:
    """What was found of a rank."""

    rank: int
    host: str
    events: tuple[Event, ...]
    """In order."""


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
        """Note that a crossing begins."""
        self._n_crossings += 1
        self._note(crossing.label.text)

    def weight(self, weight: WeightId) -> None:
        """Note that a weight is about to be unpacked."""
        self._note(f"unpack {weight}")

    def step(self, step: int) -> None:
        """Note that a decode step begins."""
        self._note(f"decode step {step + 1}")

    def _note(self, text: str) -> None:
        number = next(self._numbers)
        place = _HEAD.size + (number - 1) % N_EVENTS * _EVENT.size
        line = text.encode("utf-8", "replace")[:104]
        _EVENT.pack_into(self._memory, place, number, self._n_crossings, time.time(), line)


@contextmanager
def recording(folder: Path, rank: int) -> Iterator[Recorder]:
    """Yield a recorder whose file goes when the body ends well.

    Raises
    ------
    ConfigError
        If the file cannot be made.
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
    """Return what ranks have left in a folder, in their order.

    Raises
    ------
    ConfigError
        If there is nothing, or something else.
    """
    flights = []
    for path in sorted(folder.glob(f"*{_SUFFIX}")):
        try:
            raw = path.read_bytes()
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
        if len(raw) != _HEAD.size + N_EVENTS * _EVENT.size or not raw.startswith(_MAGIC):
            raise ConfigError(f"{path} is no record of a rank, or was cut short")
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
        raise ConfigError(f"{folder} has no records of ranks (*{_SUFFIX}): did the run end well?")
    return flights


def _text(raw: bytes) -> str:
    return raw.rstrip(b"\0").decode("utf-8", "replace")
