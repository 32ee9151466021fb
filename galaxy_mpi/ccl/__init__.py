"""Collectives over a row or a column of chips, written out hop by hop.

`topology` says who sends which chunk to whom in which step (integers only), `collectives` walks
such a schedule over a transport, `gathered` has the reductions of decode. `ccl` and `prefill_ccl`
are what a chip uses: its collectives in each mode, with their persistent buffers.
"""

from galaxy_mpi.ccl.ccl import CCL, BufferKey, DecodeCCL
from galaxy_mpi.ccl.collectives import AllGather, AllReduce, ReduceScatter
from galaxy_mpi.ccl.gathered import GatheredAllReduce, GatheredReduceScatter
from galaxy_mpi.ccl.prefill_ccl import PrefillCCL
from galaxy_mpi.ccl.stamps import Stamper
from galaxy_mpi.ccl.topology import TOPOLOGIES, Direct, Hop, Line, Ring, Round, Topology

__all__ = [
    "CCL",
    "TOPOLOGIES",
    "AllGather",
    "AllReduce",
    "BufferKey",
    "DecodeCCL",
    "Direct",
    "GatheredAllReduce",
    "GatheredReduceScatter",
    "Hop",
    "Line",
    "PrefillCCL",
    "ReduceScatter",
    "Ring",
    "Round",
    "Stamper",
    "Topology",
]
