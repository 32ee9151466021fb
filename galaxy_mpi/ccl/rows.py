"""A row for each member that comes to all: at once, or passed on hop by hop."""

from collections.abc import Callable

from galaxy_mpi.ccl.bench import Bench
from galaxy_mpi.ccl.topology import Hop, Topology
from galaxy_mpi.ccl.wire import Wire
from galaxy_mpi.mesh.plane import RowHops, Table

__all__ = ["OpenRows", "Wiring", "at_once", "cross_rows", "hop_by_hop"]

Wiring = Callable[[int], Topology]
"""Makes the topology of a group from its size."""

OpenRows = Callable[[Bench, Wire, int], Table]
"""Asks a chip's plane for rows of so many bytes."""


def at_once(bench: Bench, wire: Wire, n_bytes: int, *, in_parts: bool = False) -> Table:
    """Return rows that come to all members at once."""
    label, plane = bench.label(wire), bench.plane(wire.axis)
    return plane.table(bench.rank, label, n_bytes, in_parts=in_parts)


def hop_by_hop(wiring: Wiring) -> OpenRows:
    """Return what asks for rows that are passed on over a topology."""

    def hops(of_round: tuple[Hop, ...]) -> tuple[tuple[int, int], ...]:
        return tuple((hop.peer, hop.chunk) for hop in of_round)

    def open_rows(bench: Bench, wire: Wire, n_bytes: int) -> Table:
        label, plane = bench.label(wire), bench.plane(wire.axis)
        topology = wiring(plane.size)
        rounds = [
            [RowHops(hops(r.sends), hops(r.receives)) for r in topology.all_gather(member)]
            for member in range(plane.size)
        ]
        return plane.relay(bench.rank, label, n_bytes, rounds)

    return open_rows


def cross_rows(bench: Bench, wire: Wire, table: Table, *, is_first: bool) -> None:
    """Add the crossing; the first exchange of an op carries the chip's device time."""
    clock = bench.clock if is_first else None
    if clock is not None:
        bench.call(clock.enter, table.times, bench.index(wire.axis))
    bench.cross(table.crossing)
    if clock is not None:
        bench.call(clock.leave, table.times)
