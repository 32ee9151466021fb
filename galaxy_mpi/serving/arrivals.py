"""Who comes when, and with how much: open loops, where that is fixed, and closed ones.

Times are seconds of device time since the beginning. Draws are seeded, each kind from a stream of
its own, so another rate has the same requests at other times.
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
    """What a request is about."""

    input_tokens: int
    output_tokens: int
    """At most: the model's context may end before."""
    prefix: str = ""
    """What requests that begin alike have in common; none if empty."""
    prefix_tokens: int = 0
    """So many tokens they have in common."""
    cancel_s: float | None = None
    """Seconds behind its arrival when who asked gives up; None: never."""


@dataclass(frozen=True)
class Arrival:
    """A request that comes."""

    at_s: float
    size: Size


class Source(Protocol):
    """Where requests come from."""

    @property
    def next_s(self) -> float | None:
        """When the next one comes; None if none is known to."""

    def take(self) -> Arrival:
        """Return the next one, which is gone then."""

    def left(self, at_s: float) -> None:
        """Be told that a request has ended."""


class OpenLoop:
    """Requests that come when they come, whatever becomes of others.

    Parameters
    ----------
    arrivals : iterable of Arrival
        In any order; those of the same time come in theirs.
    """

    def __init__(self, arrivals: Iterable[Arrival]) -> None:
        self._left = deque(sorted(arrivals, key=lambda arrival: arrival.at_s))

    @property
    def next_s(self) -> float | None:
        """When the next one comes."""
        return self._left[0].at_s if self._left else None

    def take(self) -> Arrival:
        """Return the next one."""
        return self._left.popleft()

    def left(self, at_s: float) -> None:
        """Do nothing."""


class ClosedLoop:
    """So many clients, each of whom asks again as soon as it has its answer.

    Parameters
    ----------
    requests : iterable of Size
        In the order in which they are asked.
    concurrency : int
        Clients.
    """

    def __init__(self, requests: Iterable[Size], concurrency: int) -> None:
        self._sizes = deque(requests)
        self._times: list[float] = [0.0] * min(concurrency, len(self._sizes))

    @property
    def next_s(self) -> float | None:
        """When the next one comes."""
        return self._times[0] if self._times and self._sizes else None

    def take(self) -> Arrival:
        """Return the next one."""
        return Arrival(heapq.heappop(self._times), self._sizes.popleft())

    def left(self, at_s: float) -> None:
        """Let the client whose request has ended ask again."""
        heapq.heappush(self._times, at_s)


def sizes(inputs: Lengths, outputs: Lengths, n_requests: int, seed: int) -> list[Size]:
    """Return so many requests with drawn lengths."""
    drawn = (
        lengths.draw(np.random.default_rng([seed, stream]), n_requests).tolist()
        for lengths, stream in ((inputs, INPUTS), (outputs, OUTPUTS))
    )
    return [Size(*both) for both in zip(*drawn, strict=True)]


def poisson(requests: Iterable[Size], rate: float, seed: int) -> list[Arrival]:
    """Return requests that come independently of each other, ``rate`` a second on the mean."""
    wanted = list(requests)
    gaps = np.random.default_rng([seed, TIMES]).standard_exponential(len(wanted)) / rate
    return [
        Arrival(at_s, size) for at_s, size in zip(np.cumsum(gaps).tolist(), wanted, strict=True)
    ]
