"""Collectives over a row or a column of chips, as parts of a chip's program.

`wire` says what a collective carries. `algorithms` says how each runs, and is the place to begin:
in one step (`direct`), or hop by hop over the schedules of `topology` (`rows` for blocks that are
passed on, `stepwise` for sums that grow on the way); `split` makes an all-reduce of the two,
`owner` does what the hops would do in one step, `slabs` cuts what is long.
"""

from galaxy_mpi.ccl.algorithms import COLLECTIVES, Algorithms
from galaxy_mpi.ccl.bench import Bench, Bound, Clock
from galaxy_mpi.ccl.topology import TOPOLOGIES, Hop, Line, Ring, Round, Topology
from galaxy_mpi.ccl.wire import BufferKey, Index, Kind, Wire

__all__ = [
    "COLLECTIVES",
    "TOPOLOGIES",
    "Algorithms",
    "Bench",
    "Bound",
    "BufferKey",
    "Clock",
    "Hop",
    "Index",
    "Kind",
    "Line",
    "Ring",
    "Round",
    "Topology",
    "Wire",
]
