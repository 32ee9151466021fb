"""Seconds that carry what they were spent on."""

from enum import Enum

__all__ = ["Bound", "Spent"]


class Bound(str, Enum):
    """What bounds an op: the largest of its terms."""

    DRAM = "DRAM"
    FLOPS = "FLOPS"
    VECTOR = "vector"
    """Passes of the vector unit over tiles that are in L1."""
    LINK = "link"
    LATENCY = "latency"
    """Launches, hops, hand-overs and gaps."""
    DISPATCH = "dispatch"
    HOST = "host"


class Spent(float):
    """A number of seconds with details; arithmetic with it gives plain numbers.

    Parameters
    ----------
    seconds : float
    bound : Bound
    dram_bytes : float
        Read or written meanwhile.
    flops : float
        Of matmuls and attention, including padding, in terms of LoFi: HiFi2 counts twice.

    Examples
    --------
    >>> reading = Spent(2e-6, Bound.DRAM, dram_bytes=500e3)
    >>> reading + 1e-6, reading.bound.value
    (3e-06, 'DRAM')
    """

    bound: Bound
    dram_bytes: float
    flops: float

    def __new__(
        cls,
        seconds: float,
        bound: Bound = Bound.LATENCY,
        *,
        dram_bytes: float = 0.0,
        flops: float = 0.0,
    ) -> "Spent":
        """Return the number with its details."""
        spent = super().__new__(cls, seconds)
        spent.bound, spent.dram_bytes, spent.flops = bound, dram_bytes, flops
        return spent

    @classmethod
    def longest(
        cls,
        overhead_s: float,
        terms: dict[Bound, float],
        *,
        dram_bytes: float = 0.0,
        flops: float = 0.0,
    ) -> "Spent":
        """Return an overhead plus the longest of overlapping terms, and which of them bounds."""
        bound = max(terms, key=lambda name: terms[name])
        longest_s = terms[bound]
        if overhead_s > longest_s:
            bound = Bound.LATENCY
        return cls(overhead_s + longest_s, bound, dram_bytes=dram_bytes, flops=flops)
