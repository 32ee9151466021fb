"""How each collective runs: in one step, or hop by hop over a ring or a line.

There are two primitives, all-gather and reduce-scatter. An all-reduce is a reduce-scatter followed
by an all-gather, or a gather of all terms, which every member adds. What is used where:

==================  ==========  ==============  ===============================
program             all-gather  reduce-scatter  all-reduce
==================  ==========  ==============  ===============================
Galaxy, decode      direct      direct          direct
Galaxy, prefill     direct      ring            reduce-scatter, then all-gather
generic, decode     line        line            terms gathered, then added
generic, prefill    line        line            reduce-scatter, then all-gather
==================  ==========  ==============  ===============================

Reductions give different bits in different ways, because the order of adding and rounding differs.
All-gathers give the same bits in every way.

``--collectives ring`` passes partial sums on, hop by hop. A reduction of few values passes on all
terms in place of sums, and adds and rounds them as the hops would (`is_small`): the same bits in
half as many rounds. Only the host does so: the device is charged for the hops of the wire.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from typing import Generic, Protocol, TypeVar

from galaxy_mpi.ccl.builder import Bound, Builder, Gather, Scatter
from galaxy_mpi.ccl.direct import DirectAllGather, DirectAllReduce, DirectReduceScatter
from galaxy_mpi.ccl.owner import by_hops
from galaxy_mpi.ccl.rows import MakeTopology, hop_by_hop
from galaxy_mpi.ccl.slabs import Slabs, is_long, slab_wires, slabs_of
from galaxy_mpi.ccl.split import SplitAllReduce, direct_all_reduce, part_of
from galaxy_mpi.ccl.stepwise import StepwiseReduceScatter
from galaxy_mpi.ccl.terms import TermsAllReduce
from galaxy_mpi.ccl.topology import Line, Ring
from galaxy_mpi.ccl.wire import Kind, Wire
from galaxy_mpi.dtypes import FLOAT32
from galaxy_mpi.mesh import Axis

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
    "Members",
    "gather_and_add",
    "gather_over",
    "is_small",
    "scatter_over",
    "scatter_terms",
]


_Made = TypeVar("_Made", bound=Bound, covariant=True)


class Members(Protocol):
    """The properties of a plane that decide how collectives run, see `galaxy_mpi.mesh.plane`."""

    @property
    def size(self) -> int:
        """Members of a group."""

    @property
    def shares_memory(self) -> bool:
        """Whether members read each other's rows where they were written."""


@dataclass(frozen=True)
class Algorithm(Generic[_Made]):
    """One way to run a kind of collective."""

    words: str
    """Name in reports."""
    make: Callable[..., _Made]
    """Given (builder, wire); a reduce-scatter also ``by_rows`` and ``is_rounded``. An all-gather
    and a reduce-scatter that it returns accept ``cross(out)``: see `Gather` and `Scatter`."""


def gather_over(make_topology: MakeTopology) -> Algorithm[Gather]:
    """Return an all-gather whose blocks are passed on hop by hop."""
    return Algorithm(
        _name(make_topology), partial(DirectAllGather, open_rows=hop_by_hop(make_topology))
    )


def scatter_over(make_topology: MakeTopology) -> Algorithm[Scatter]:
    """Return a reduce-scatter whose sums grow hop by hop."""
    return Algorithm(
        _name(make_topology), partial(StepwiseReduceScatter, make_topology=make_topology)
    )


def gather_and_add(make_topology: MakeTopology) -> Algorithm[Bound]:
    """Return an all-reduce that gathers all terms hop by hop; every member adds them."""
    words = f"{_name(make_topology)} of terms"
    return Algorithm(words, partial(DirectAllReduce, open_rows=hop_by_hop(make_topology)))


def scatter_terms(make_topology: MakeTopology) -> Algorithm[Scatter]:
    """Return a reduce-scatter that gathers all terms hop by hop; the owner rounds as hops do."""
    make = partial(
        DirectReduceScatter,
        travels=FLOAT32,
        add=by_hops(make_topology),
        open_rows=hop_by_hop(make_topology),
    )
    return Algorithm(f"{_name(make_topology)} of terms", make)


SMALL_SUM = 2**12
"""Values of an all-reduce up to which passing on terms takes less time than sums."""

SMALL_CHUNK, SHARED_CHUNK = 2**9, 2**15
"""The same of a reduce-scatter's chunk, with messages and in shared memory.

A message of a whole term should fit Open MPI's eager limit (40 KiB, see ``launch/setup.sh``). In
shared memory, terms are passed on without a copy.
"""


def is_small(wire: Wire, *, shares_memory: bool) -> bool:
    """Return whether a reduction is of few values, for members that share memory or do not."""
    if wire.kind is Kind.REDUCE_SCATTER:
        return prod(wire.sent) <= (SHARED_CHUNK if shares_memory else SMALL_CHUNK)
    return wire.kind is Kind.ALL_REDUCE and prod(wire.sent) <= SMALL_SUM


def _name(make_topology: MakeTopology) -> str:
    return make_topology(1).name


@dataclass(frozen=True)
class Algorithms:
    """The algorithm of each kind of collective."""

    name: str
    all_gather: Algorithm[Gather] = Algorithm("direct", DirectAllGather)
    reduce_scatter: Algorithm[Scatter] = Algorithm("direct", DirectReduceScatter)
    all_reduce: Algorithm[Bound] | None = Algorithm("direct", direct_all_reduce)
    """None: a reduce-scatter followed by an all-gather."""
    skips_alone: bool = False
    """Whether collectives of a group of one chip take no device time."""
    small: "Algorithms | None" = None
    """Used for small reductions (`is_small`) in place of this."""

    def bind(self, builder: Builder, wire: Wire, *, by_rows: bool = False) -> Bound:
        """Return a collective of a chip's program, in slabs if the tensor is long."""
        if is_long(wire):
            return Slabs(builder, wire, self._bind, by_rows=by_rows)
        return self._bind(builder, wire, by_rows=by_rows)

    def slabs(
        self, builder: Builder, wire: Wire, pieces: Sequence[slice] = ()
    ) -> Iterator[tuple[slice, Bound]]:
        """Yield row ranges with their collectives, see `slabs_of`; a short tensor is one slab."""
        return slabs_of(builder, wire, self._bind, pieces=pieces)

    def ran_as(self, wires: Iterable[Wire], planes: Mapping[Axis, Members]) -> dict[str, str]:
        """Return the algorithm of each buffer's collective, for reports."""
        return {wire.key: self.words(wire, planes[wire.axis]) for wire in wires}

    def words(self, wire: Wire, members: Members) -> str:
        """Return the algorithm of a collective, for reports.

        That of a long tensor is of its slabs; if they differ, each is named once.
        """
        wires = [slab for _, slab in slab_wires(wire)] if is_long(wire) else [wire]
        return " and ".join(dict.fromkeys(self._words(each, members) for each in wires))

    def _words(self, wire: Wire, members: Members) -> str:
        way = self._way(wire, members)
        if wire.kind is Kind.ALL_GATHER:
            return way.all_gather.words
        if wire.kind is Kind.REDUCE_SCATTER:
            return way.reduce_scatter.words
        if way.all_reduce is not None:
            return way.all_reduce.words
        half = replace(part_of(wire, members.size), kind=Kind.REDUCE_SCATTER)
        scatter, gather = way._words(half, members), way.all_gather.words
        return scatter if scatter == gather else f"{scatter}, then {gather}"

    def takes_time(self, wire: Wire, size: int) -> bool:
        """Return whether a collective of a group of so many chips takes device time."""
        return size > 1 or not self.skips_alone

    def _bind(self, builder: Builder, wire: Wire, *, by_rows: bool) -> Bound:
        made: Bound
        way = self._way(wire, builder.plane(wire.axis))
        if wire.kind is Kind.ALL_GATHER:
            made = way.all_gather.make(builder, wire)
        elif wire.kind is Kind.REDUCE_SCATTER:
            make = way.reduce_scatter.make
            made = make(builder, wire, by_rows=by_rows)
        elif way.all_reduce is not None:
            made = way.all_reduce.make(builder, wire)
        else:
            made = SplitAllReduce(builder, wire, scatter=way._scatter, gather=way.all_gather.make)
        return made

    def _scatter(self, builder: Builder, wire: Wire, **settings: bool) -> Scatter:
        """Return the first half of an all-reduce, which may be small."""
        half = replace(wire, kind=Kind.REDUCE_SCATTER)
        way = self._way(half, builder.plane(wire.axis))
        return way.reduce_scatter.make(builder, wire, **settings)

    def _way(self, wire: Wire, members: Members) -> "Algorithms":
        """Return `small` for a small reduction, else this."""
        if self.small is None or not is_small(wire, shares_memory=members.shares_memory):
            return self
        return self.small

    def over(self, name: str) -> "Algorithms":
        """Return a copy with every collective ``direct``, ``ring`` or ``line``."""
        return replace(COLLECTIVES[name], skips_alone=self.skips_alone)

    def with_lines(self, *, scatter: bool, gather: bool) -> "Algorithms":
        """Return a copy with lines for one primitive or both (LINE_RS, LINE_AG)."""
        made = replace(self, small=None)
        if scatter:
            made = replace(made, reduce_scatter=scatter_over(Line))
        return replace(made, all_gather=gather_over(Line)) if gather else made


def _over(make_topology: MakeTopology) -> Algorithms:
    return Algorithms(
        _name(make_topology), gather_over(make_topology), scatter_over(make_topology), None
    )


RING_TERMS = Algorithms(
    "ring of terms",
    gather_over(Ring),
    scatter_terms(Ring),
    Algorithm("ring of terms", partial(TermsAllReduce, open_rows=hop_by_hop(Ring))),
)

DIRECT, RING, LINE = Algorithms("direct"), replace(_over(Ring), small=RING_TERMS), _over(Line)

COLLECTIVES = {"direct": DIRECT, "ring": RING, "line": LINE}
"""What ``--collectives`` names."""

GALAXY_DECODE = DIRECT
GALAXY_PREFILL = Algorithms("galaxy prefill", reduce_scatter=scatter_over(Ring), all_reduce=None)
GENERIC_PREFILL = replace(LINE, name="generic prefill", skips_alone=True)
GENERIC_DECODE = replace(GENERIC_PREFILL, name="generic decode", all_reduce=gather_and_add(Line))
