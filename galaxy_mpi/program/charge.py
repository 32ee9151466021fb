"""What the device is charged for an op, in the order in which it happens.

An op yields charges (`galaxy_mpi.program.Op.charges`); clocks add them up, traces and reports name
them. A program begins with an empty circular buffer and free DRAM. Nothing here knows values.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from galaxy_mpi.ccl.wire import Wire

__all__ = ["Charge", "Consumed", "Cross", "Kernel", "Take"]

ByColumn = Callable[[Sequence[int]], Sequence[float]]
"""Gives seconds for each column from the longest user's position there (-1: no user)."""


@dataclass(frozen=True)
class Kernel:
    """Work on so many worker cores."""

    name: str
    seconds: float | ByColumn
    cores: float
    has_gap: bool = True
    """Whether the op ends here, and the gap between ops follows; False for a part of an op."""


@dataclass(frozen=True)
class Take:
    """The workers wait until the prefetcher has delivered the next weight."""

    n_bytes: float
    """Of device memory."""


@dataclass(frozen=True)
class Consumed:
    """The weight taken last leaves the circular buffer."""


@dataclass(frozen=True)
class Cross:
    """A collective: a chip goes on when the data of its whole group is there."""

    name: str
    """Of the op."""
    wire: Wire
    own_s: float
    """What each chip takes by itself."""
    wire_s: float
    """In which the busiest link passes its bytes."""
    block_s: float | None = None
    """In which a link passes one member's bytes: behind the farthest member's first byte, no more
    than that is left. None: nothing streams, everything comes behind it."""
    link_bytes: float | None = None
    """Of the busiest link; None: what it passes in that time at its full rate."""
    laps: float = 1
    """Traversals of the group's longest path: 1 with the data, 2 with a barrier before it; more
    where a core takes data from the link and gives it to the next, in hops that it is worth."""
    beside_s: float = 0.0
    """What the workers compute at the same time; they go on when both are done."""
    cores: float = 0.0
    """On which they do."""
    rides: bool = False
    """Whether a run sends its data along with the collective before it, on the same axis. Nothing
    that takes time may come between them."""


Charge = Kernel | Take | Consumed | Cross
