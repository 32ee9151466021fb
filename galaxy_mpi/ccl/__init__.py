"""Collectives over a row or a column of chips, bound once and run many times.

`wire` describes a message, `topology` says who sends which chunk to whom in which round of a ring
or a line (integers only). `direct` and `stepwise` bind the two primitives, all-gather and
reduce-scatter; `algorithms` says which are used where. `slabs` cuts the long tensors of prefill.
"""

from galaxy_mpi.ccl.algorithms import COLLECTIVES, Algorithms
from galaxy_mpi.ccl.topology import TOPOLOGIES, Hop, Line, Ring, Round, Topology
from galaxy_mpi.ccl.wire import BufferKey, Kind, Wire

__all__ = [
    "COLLECTIVES",
    "TOPOLOGIES",
    "Algorithms",
    "BufferKey",
    "Hop",
    "Kind",
    "Line",
    "Ring",
    "Round",
    "Topology",
    "Wire",
]
