"""Arrivals of requests: open loops, where the times are given, and closed loops.

Times are seconds of device time. Random draws are seeded. Arrivals, prompt lengths and answer
lengths have separate streams, so another rate gives the same requests at other times.
"""

import heapq
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from galaxy_mpi.serving.lengths import Lengths

__all__ = ["Arrival", "ClosedLoop", "OpenLoop", "Size", "Source", "poisson", "sizes"]

TIMES, INPUTS, OUTPUTS = range(3)
"""Streams of random numbers."""


@dataclass(frozen=True)
class Size:
    """Size of one request."""

    input_tokens: int
    output_tokens: int
    """Upper bound: a full context ends the answer earlier."""
    prefix: str = ""
    """Name of a beginning that several prompts share; empty if there is none."""
    prefix_tokens: int = 0
    """Length of that beginning."""
    cancel_s: float | None = None
    """Seconds from the arrival until the client disconnects; None: never."""


@dataclass(frozen=True)
class Arrival:
    """A request and when it arrives."""

    at_s: float
    size: Size


class Source(Protocol):
    """Produces requests."""

    @property
    def next_s(self) -> float | None:
        """Time of the next arrival; None if none is due."""

    def take(self) -> Arrival:
        """Remove and return the next request."""

    def left(self, at_s: float) -> None:
        """Note that a request has ended."""


class OpenLoop:
    """Requests that arrive at given times.

    Parameters
    ----------
    arrivals : iterable of Arrival
        In any order; requests of the same time keep their order.
    """

    def __init__(self, arrivals: Iterable[Arrival]) -> None:
        self._left = deque(sorted(arrivals, key=lambda arrival: arrival.at_s))

    @property
    def next_s(self) -> float | None:
        """Time of the next arrival."""
        return self._left[0].at_s if self._left else None

    def take(self) -> Arrival:
        """Remove and return the next request."""
        return self._left.popleft()

    def left(self, at_s: float) -> None:
        """Do nothing: arrivals are independent of it."""


class ClosedLoop:
    """A number of clients, each of which sends its next request when the previous one has ended.

    Parameters
    ----------
    requests : iterable of Size
        In the order in which they are sent.
    concurrency : int
        Number of clients.
    """

    def __init__(self, requests: Iterable[Size], concurrency: int) -> None:
        self._sizes = deque(requests)
        self._times: list[float] = [0.0] * min(concurrency, len(self._sizes))

    @property
    def next_s(self) -> float | None:
        """Time of the next arrival."""
        return self._times[0] if self._times and self._sizes else None

    def take(self) -> Arrival:
        """Remove and return the next request."""
        return Arrival(heapq.heappop(self._times), self._sizes.popleft())

    def left(self, at_s: float) -> None:
        """Let the client send its next request."""
        heapq.heappush(self._times, at_s)


def sizes(inputs: Lengths, outputs: Lengths, n_requests: int, seed: int) -> list[Size]:
    """Draw the lengths of so many requests."""
    drawn = (
        lengths.draw(np.random.default_rng([seed, stream]), n_requests).tolist()
        for lengths, stream in ((inputs, INPUTS), (outputs, OUTPUTS))
    )
    return [Size(*both) for both in zip(*drawn, strict=True)]


def poisson(requests: Iterable[Size], rate: float, seed: int) -> list[Arrival]:
    """Draw independent arrival times, on average ``rate`` per second."""
    wanted = list(requests)
    gaps = np.random.default_rng([seed, TIMES]).standard_exponential(len(wanted)) / rate
    return [
        Arrival(at_s, size) for at_s, size in zip(np.cumsum(gaps).tolist(), wanted, strict=True)
    ]
