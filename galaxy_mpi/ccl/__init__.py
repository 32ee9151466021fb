"""Collectives over a row or a column of chips, written out hop by hop.

`topology` says who sends which chunk to whom in which step (integers only), `collectives` walks
such a schedule over a transport, `gathered` has the reductions of decode. `ccl`, `prefill_ccl`
and `separate_ccl` are what a chip uses: its collectives in each mode, over `buffers`.
"""

from galaxy_mpi.ccl.buffers import Buffers, BuffersPerCall, PersistentBuffers
from galaxy_mpi.ccl.ccl import CCL, BufferKey, DecodeCCL
from galaxy_mpi.ccl.collectives import AllGather, AllReduce, GatherAndAdd, ReduceScatter
from galaxy_mpi.ccl.gathered import (
    GatheredAllReduce,
    GatheredBlocks,
    GatheredReduceScatter,
    PlainAllReduce,
    ScatteredAllReduce,
    all_reduce_at_once,
)
from galaxy_mpi.ccl.prefill_ccl import PrefillCCL
from galaxy_mpi.ccl.separate_ccl import SeparateCCL, SeparateDecodeCCL
from galaxy_mpi.ccl.stamps import Stamper
from galaxy_mpi.ccl.topology import TOPOLOGIES, Hop, Line, Ring, Round, Topology

__all__ = [
    "CCL",
    "TOPOLOGIES",
    "AllGather",
    "AllReduce",
    "BufferKey",
    "Buffers",
    "BuffersPerCall",
    "DecodeCCL",
    "GatherAndAdd",
    "GatheredAllReduce",
    "GatheredBlocks",
    "GatheredReduceScatter",
    "Hop",
    "Line",
    "PersistentBuffers",
    "PlainAllReduce",
    "PrefillCCL",
    "ReduceScatter",
    "Ring",
    "Round",
    "ScatteredAllReduce",
    "SeparateCCL",
    "SeparateDecodeCCL",
    "Stamper",
    "Topology",
    "all_reduce_at_once",
]
