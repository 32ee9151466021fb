"""How each collective runs: in one step, or hop by hop over a ring or a line.

Two primitives, all-gather and reduce-scatter; an all-reduce is both behind each other, or a gather
of all terms that everybody adds.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from galaxy_mpi.ccl.bench import Bench, Bound
from galaxy_mpi.ccl.direct import (
    DirectAllGather,
    DirectReduceScatter,
    SplitAllReduce,
    direct_all_reduce,
)
from galaxy_mpi.ccl.wire import Kind, Wire

__all__ = ["DIRECT", "GALAXY_PREFILL", "GENERIC_DECODE", "GENERIC_PREFILL", "Algorithms"]

Make = Callable[..., Any]


@dataclass(frozen=True)
class Algorithms:
    """Which algorithm each kind of collective has."""

    name: str
    all_gather: Make = DirectAllGather
    """Given (bench, wire, is_first=...)."""
    reduce_scatter: Make = DirectReduceScatter
    """Given (bench, wire, by_rows=..., is_first=..., is_rounded=...)."""
    all_reduce: Make | None = direct_all_reduce
    """Given (bench, wire, is_first=...); None: both primitives behind each other."""

    def bind(self, bench: Bench, wire: Wire, *, by_rows: bool, is_first: bool = True) -> Bound:
        """Return a collective of a chip's program."""
        made: Bound
        if wire.kind is Kind.ALL_GATHER:
            made = self.all_gather(bench, wire, is_first=is_first)
        elif wire.kind is Kind.REDUCE_SCATTER:
            made = self.reduce_scatter(bench, wire, by_rows=by_rows, is_first=is_first)
        elif self.all_reduce is not None:
            made = self.all_reduce(bench, wire, is_first=is_first)
        else:
            made = SplitAllReduce(
                bench,
                wire,
                is_first=is_first,
                scatter=self.reduce_scatter,
                gather=self.all_gather,
            )
        return made


DIRECT = Algorithms("direct")
GALAXY_PREFILL = Algorithms("direct", all_reduce=None)
GENERIC_DECODE = DIRECT
GENERIC_PREFILL = GALAXY_PREFILL
