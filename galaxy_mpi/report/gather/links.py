"""What each link of the mesh carries in a step, in each direction.

In a ring all links carry the same: half of the blocks go each way. On a line, a gathered block
passes every link between its owner and the ends, so the link after chip i of n carries i + 1
blocks forth and n - 1 - i back; for the terms of a reduce-scatter it is the other way round. The
busiest link, which the clock charges, carries n - 1 blocks.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from galaxy_mpi.ccl.wire import Kind
from galaxy_mpi.mesh import Axis
from galaxy_mpi.program.charge import Cross
from galaxy_mpi.report.gather.step import ShownStep

__all__ = ["Load", "loads_of", "wire_shares"]


@dataclass(frozen=True)
class Load:
    """Of one link from a chip to the next along an axis, in a step."""

    row: int
    col: int
    axis: Axis
    there_bytes: float
    back_bytes: float
    factor: float
    """How much slower the link is; 1 if it is not."""
    busy: float
    """Share of the step in which the busier direction is busy."""


def wire_shares(kind: Kind, index: int, size: int, *, is_ring: bool) -> tuple[float, float]:
    """Return the bytes on the link after member ``index``, as shares of the busiest link's.

    Examples
    --------
    >>> [wire_shares(Kind.ALL_GATHER, i, 3, is_ring=False) for i in range(2)]
    [(0.5, 1.0), (1.0, 0.5)]
    """
    if is_ring:
        return 1.0, 1.0
    there, back = (index + 1) / (size - 1), (size - 1 - index) / (size - 1)
    return (back, there) if kind is Kind.REDUCE_SCATTER else (there, back)


def loads_of(step: ShownStep) -> Iterator[Load]:
    """Yield every link between neighbours; on a ring, the last chip's link goes to the first."""
    mesh, machine = step.mesh, step.machine
    is_ring = machine.topology == "ring"
    rate, step_s = machine.link_bytes_per_s, step.timing.seconds
    for axis in Axis:
        size, busiest = mesh.size(axis), dict[Kind, float]()
        for work in step.record.work:
            if isinstance(work.charge, Cross) and work.charge.wire.axis is axis:
                kind = work.charge.wire.kind
                busiest[kind] = busiest.get(kind, 0.0) + work.link_bytes
        if size < 2:
            continue
        for rank in range(mesh.n_chips):
            row, col = mesh.coord(rank)
            index = row if axis is Axis.COLUMN else col
            if index == size - 1 and not is_ring:
                continue
            there = back = 0.0
            for kind, n_bytes in busiest.items():
                shares = wire_shares(kind, index, size, is_ring=is_ring)
                there, back = there + n_bytes * shares[0], back + n_bytes * shares[1]
            factor = step.slowness.links.get((row, col, axis), 1.0)
            busy = max(there, back) * factor / rate / step_s if step_s else 0.0
            yield Load(row, col, axis, there, back, factor, busy)
