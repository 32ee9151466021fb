"""How each collective runs: in one step, or hop by hop over a ring or a line.

Two primitives, all-gather and reduce-scatter; an all-reduce is both behind each other, or a gather
of all terms that everybody adds. What is used where:

==================  ==========  ==============  ===============================
program             all-gather  reduce-scatter  all-reduce
==================  ==========  ==============  ===============================
Galaxy, decode      direct      direct          direct
Galaxy, prefill     direct      ring            reduce-scatter, then all-gather
generic, decode     line        line            terms gathered, added by all
generic, prefill    line        line            reduce-scatter, then all-gather
==================  ==========  ==============  ===============================

Bits depend on the order in which terms are added and rounded: that of reductions. All-gathers give
the same bits in every way.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from galaxy_mpi.ccl.bench import Bench, Bound
from galaxy_mpi.ccl.direct import DirectAllGather, DirectAllReduce, DirectReduceScatter
from galaxy_mpi.ccl.owner import by_hops
from galaxy_mpi.ccl.rows import Wiring, hop_by_hop
from galaxy_mpi.ccl.slabs import Slabs, is_long, slabs_of
from galaxy_mpi.ccl.split import SplitAllReduce, direct_all_reduce
from galaxy_mpi.ccl.stepwise import StepwiseReduceScatter
from galaxy_mpi.ccl.topology import TOPOLOGIES, Line, Ring
from galaxy_mpi.ccl.wire import Kind, Wire
from galaxy_mpi.dtypes import FLOAT32

__all__ = [
    "COLLECTIVES",
    "DIRECT",
    "GALAXY_DECODE",
    "GALAXY_PREFILL",
    "GENERIC_DECODE",
    "GENERIC_PREFILL",
    "LINE",
    "RING",
    "Algorithm",
    "Algorithms",
    "gather_and_add",
    "gather_over",
    "scatter_at_owner",
    "scatter_over",
]


@dataclass(frozen=True)
class Algorithm:
    """One way to run a kind of collective."""

    words: str
    """What reports call it."""
    make: Callable[..., Any]
    """Given (bench, wire, is_first=...); a reduce-scatter also ``by_rows`` and ``is_rounded``."""


def gather_over(wiring: Wiring) -> Algorithm:
    """Return an all-gather whose blocks are passed on hop by hop."""
    return Algorithm(_name(wiring), partial(DirectAllGather, open_rows=hop_by_hop(wiring)))


def scatter_over(wiring: Wiring) -> Algorithm:
    """Return a reduce-scatter whose sums grow hop by hop."""
    return Algorithm(_name(wiring), partial(StepwiseReduceScatter, wiring=wiring))


def scatter_at_owner(wiring: Wiring) -> Algorithm:
    """Return a reduce-scatter in one step with the bits of hops: the owner rounds as they do."""
    make = partial(DirectReduceScatter, travels=FLOAT32, add=by_hops(wiring))
    return Algorithm(f"{_name(wiring)} at the owner", make)


def gather_and_add(wiring: Wiring) -> Algorithm:
    """Return an all-reduce that gathers all terms hop by hop, which everybody adds."""
    words = f"{_name(wiring)}, terms gathered"
    return Algorithm(words, partial(DirectAllReduce, open_rows=hop_by_hop(wiring)))


def _name(wiring: Wiring) -> str:
    return wiring(1).name


@dataclass(frozen=True)
class Algorithms:
    """Which algorithm each kind of collective has."""

    name: str
    all_gather: Algorithm = Algorithm("direct", DirectAllGather)
    reduce_scatter: Algorithm = Algorithm("direct", DirectReduceScatter)
    all_reduce: Algorithm | None = Algorithm("direct", direct_all_reduce)
    """None: both primitives behind each other."""
    skips_alone: bool = False
    """Whether a group of one chip has no collective that takes device time."""

    def bind(
        self, bench: Bench, wire: Wire, *, by_rows: bool = False, is_first: bool = True
    ) -> Bound:
        """Return a collective of a chip's program, in slabs where it is long."""
        is_first = is_first and not self._skips(bench, wire)
        if is_long(wire):
            return Slabs(bench, wire, self._bind, by_rows=by_rows, is_first=is_first)
        return self._bind(bench, wire, by_rows=by_rows, is_first=is_first)

    def slabs(
        self, bench: Bench, wire: Wire, pieces: Sequence[slice] = (), *, is_first: bool = True
    ) -> Iterator[tuple[slice, Bound]]:
        """Yield rows and the collective of these rows, see `slabs_of`; short tensors are one."""
        is_first = is_first and not self._skips(bench, wire)
        return slabs_of(bench, wire, self._bind, is_first=is_first, pieces=pieces)

    def ran_as(self, wires: Iterable[Wire]) -> dict[str, str]:
        """Return in words what the collective of each buffer runs as."""
        return {wire.key: self.words(wire.kind) for wire in wires}

    def words(self, kind: Kind) -> str:
        """Return in words what a kind of collective runs as."""
        gather, scatter = self.all_gather.words, self.reduce_scatter.words
        if kind is Kind.ALL_GATHER:
            return gather
        if kind is Kind.REDUCE_SCATTER:
            return scatter
        if self.all_reduce is not None:
            return self.all_reduce.words
        return scatter if scatter == gather else f"{scatter}, then {gather}"

    def _skips(self, bench: Bench, wire: Wire) -> bool:
        return self.skips_alone and bench.plane(wire.axis).size == 1

    def _bind(self, bench: Bench, wire: Wire, *, by_rows: bool, is_first: bool) -> Bound:
        made: Bound
        if wire.kind is Kind.ALL_GATHER:
            made = self.all_gather.make(bench, wire, is_first=is_first)
        elif wire.kind is Kind.REDUCE_SCATTER:
            make = self.reduce_scatter.make
            made = make(bench, wire, by_rows=by_rows, is_first=is_first)
        elif self.all_reduce is not None:
            made = self.all_reduce.make(bench, wire, is_first=is_first)
        else:
            made = SplitAllReduce(
                bench,
                wire,
                is_first=is_first,
                scatter=self.reduce_scatter.make,
                gather=self.all_gather.make,
            )
        return made

    def over(self, name: str) -> "Algorithms":
        """Return the same with every collective as ``direct``, ``ring`` or ``line``."""
        return replace(COLLECTIVES[name], skips_alone=self.skips_alone)

    def with_lines(self, *, scatter: bool, gather: bool) -> "Algorithms":
        """Return the same with lines for one primitive or the other (LINE_RS, LINE_AG)."""
        made = self
        if scatter:
            made = replace(made, reduce_scatter=scatter_over(Line))
        return replace(made, all_gather=gather_over(Line)) if gather else made


def _over(wiring: Wiring) -> Algorithms:
    return Algorithms(_name(wiring), gather_over(wiring), scatter_over(wiring), None)


DIRECT, RING, LINE = Algorithms("direct"), _over(Ring), _over(Line)

COLLECTIVES = {"direct": DIRECT} | {name: _over(wiring) for name, wiring in TOPOLOGIES.items()}
"""What ``--collectives`` names."""

GALAXY_DECODE = DIRECT
GALAXY_PREFILL = Algorithms("galaxy prefill", reduce_scatter=scatter_over(Ring), all_reduce=None)
GENERIC_PREFILL = replace(LINE, name="generic prefill", skips_alone=True)
GENERIC_DECODE = replace(GENERIC_PREFILL, name="generic decode", all_reduce=gather_and_add(Line))
