"""Collectives over a row or a column of chips, as parts of a chip's program.

Start with `algorithms`, which has the table of how each collective runs: in one step (`direct`), or
hop by hop over the schedules of `topology` (`rows` for blocks that are passed on, `stepwise` for
partial sums that grow on the way, `terms` if there are few values). `wire` specifies what a
collective sends, `split` composes an all-reduce, `owner` reproduces the rounding of hops in one
step, and `slabs` splits long tensors.
"""

from galaxy_mpi.ccl.algorithms import COLLECTIVES, Algorithms
from galaxy_mpi.ccl.builder import Bound, Builder
from galaxy_mpi.ccl.topology import TOPOLOGIES, Hop, Line, Ring, Round, Topology
from galaxy_mpi.ccl.wire import BufferKey, Index, Kind, Wire

__all__ = [
    "COLLECTIVES",
    "TOPOLOGIES",
    "Algorithms",
    "Bound",
    "BufferKey",
    "Builder",
    "Hop",
    "Index",
    "Kind",
    "Line",
    "Ring",
    "Round",
    "Topology",
    "Wire",
]
