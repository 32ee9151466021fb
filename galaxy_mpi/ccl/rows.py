"""A row for each member that comes to all: at once, or passed on hop by hop."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from galaxy_mpi.arrays import Bytes
from galaxy_mpi.ccl.bench import Bench
from galaxy_mpi.ccl.topology import Hop, Topology
from galaxy_mpi.ccl.wire import Wire
from galaxy_mpi.mesh.plane import Crossing, RowHops

__all__ = ["OpenRows", "Rows", "Wiring", "at_once", "hop_by_hop"]

Wiring = Callable[[int], Topology]
"""Makes the topology of a group from its size."""


@dataclass(frozen=True)
class Rows:
    """What `galaxy_mpi.mesh.plane.Table` and `Relay` have in common."""

    mine: Bytes
    rows: Bytes
    times: NDArray[np.float64]
    crossings: Sequence[Crossing]

    def cross(self, bench: Bench, wire: Wire, *, is_first: bool) -> None:
        """Add the crossings; the first exchange of an op carries the chip's device time."""
        clock = bench.clock if is_first else None
        if clock is not None:
            bench.call(clock.enter, self.times, bench.index(wire.axis))
        for crossing in self.crossings:
            bench.cross(crossing)
        if clock is not None:
            bench.call(clock.leave, self.times)


OpenRows = Callable[[Bench, Wire, int], Rows]
"""Asks a chip's plane for rows of so many bytes."""


def at_once(bench: Bench, wire: Wire, n_bytes: int, *, in_parts: bool = False) -> Rows:
    """Return rows that all members see behind one crossing."""
    label, plane = bench.label(wire), bench.plane(wire.axis)
    table = plane.table(bench.rank, label, n_bytes, in_parts=in_parts)
    return Rows(table.mine, table.rows, table.times, (table.crossing,))


def hop_by_hop(wiring: Wiring) -> OpenRows:
    """Return what asks for rows that are passed on over a topology."""

    def hops(of_round: tuple[Hop, ...]) -> tuple[tuple[int, int], ...]:
        return tuple((hop.peer, hop.chunk) for hop in of_round)

    def open_rows(bench: Bench, wire: Wire, n_bytes: int) -> Rows:
        label, plane = bench.label(wire), bench.plane(wire.axis)
        topology = wiring(plane.size)
        rounds = [
            [RowHops(hops(r.sends), hops(r.receives)) for r in topology.all_gather(member)]
            for member in range(plane.size)
        ]
        relay = plane.relay(bench.rank, label, n_bytes, rounds)
        return Rows(relay.mine, relay.rows, relay.times, relay.crossings)

    return open_rows
