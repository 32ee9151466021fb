"""Rows of a shared table: read by all after one barrier, or passed on hop by hop."""

from collections.abc import Callable

from galaxy_mpi.ccl.builder import Builder
from galaxy_mpi.ccl.topology import Hop, Topology
from galaxy_mpi.ccl.wire import Wire
from galaxy_mpi.mesh.plane import RowHops, Table

__all__ = ["MakeTopology", "OpenRows", "at_once", "hop_by_hop"]

MakeTopology = Callable[[int], Topology]
"""Makes the topology of a group from its size."""

OpenRows = Callable[[Builder, Wire, int], Table]
"""Asks a chip's plane for a table with rows of so many bytes."""


def at_once(builder: Builder, wire: Wire, n_bytes: int, *, in_parts: bool = False) -> Table:
    """Return a table that all members read after one barrier."""
    label, plane = builder.label(wire), builder.plane(wire.axis)
    return plane.table(builder.rank, label, n_bytes, in_parts=in_parts)


def hop_by_hop(make_topology: MakeTopology) -> OpenRows:
    """Return a function that asks for a table whose rows are passed on over a topology.

    Messages go both ways, because half as many rounds take less time. Signals in shared memory are
    passed on one way: several that have arrived are passed on together.
    """

    def hops(of_round: tuple[Hop, ...]) -> tuple[tuple[int, int], ...]:
        return tuple((hop.peer, hop.chunk) for hop in of_round)

    def open_rows(builder: Builder, wire: Wire, n_bytes: int) -> Table:
        label, plane = builder.label(wire), builder.plane(wire.axis)
        topology = make_topology(plane.size)
        gather = topology.all_gather if plane.shares_memory else topology.all_gather_both_ways
        rounds = [
            [RowHops(hops(r.sends), hops(r.receives)) for r in gather(member)]
            for member in range(plane.size)
        ]
        return plane.relay(builder.rank, label, n_bytes, rounds)

    return open_rows
