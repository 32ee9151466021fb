"""Device time of an op as a list of charges, in execution order.

An op yields charges (`galaxy_mpi.program.Op.charges`); clocks add them up, traces and reports list
them. A program begins with an empty circular buffer and idle DRAM. Charges do not depend on values.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from galaxy_mpi.ccl.wire import Wire

__all__ = ["Charge", "Consumed", "Cross", "Kernel", "Take"]

ByColumn = Callable[[Sequence[int]], Sequence[float]]
"""Returns seconds per column, given the longest user's position in each (-1: no user)."""


class Kernel(NamedTuple):
    """Work on a number of worker cores."""

    name: str
    seconds: float | ByColumn
    cores: float
    has_gap: bool = True
    """Whether the op ends here, so that the gap between ops follows."""


class Take(NamedTuple):
    """The workers wait until the prefetcher has delivered the next weight."""

    n_bytes: float
    """Device bytes."""


@dataclass(frozen=True)
class Consumed:
    """The weight taken last leaves the circular buffer."""


class Cross(NamedTuple):
    """A collective: a chip continues when the data of its whole group has arrived."""

    name: str
    """Name of the op."""
    wire: Wire
    own_s: float
    """Each chip's own time."""
    wire_s: float
    """Time for the busiest link to pass its bytes."""
    block_s: float | None = None
    """Time for a link to pass one member's bytes. With streaming, no more than this is left after
    the farthest member's first byte. None: no streaming, all bytes follow the first."""
    link_bytes: float | None = None
    """Bytes on the busiest link; None: what it passes in ``wire_s`` at full rate."""
    laps: float = 1
    """Traversals of the group's longest path: 1, or 2 with a leading barrier. More if a core
    forwards data between links, whose cost is expressed in hops."""
    beside_s: float = 0.0
    """Time of concurrent work on the cores; they continue when both are done."""
    cores: float = 0.0
    """Cores of the concurrent work."""
    rides: bool = False
    """Whether a run sends its data together with the previous collective, on the same axis. Nothing
    that takes time may come between the two."""


Charge = Kernel | Take | Consumed | Cross
