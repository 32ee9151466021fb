"""The generic system: separate ops on a line, weights read when used, buffers per call.

On a single row or column of chips only heads, feed-forward and vocabulary are cut, over all chips,
which the system sees as one column (``Axis.COLUMN``), however the mesh was written. There an
all-reduce ends half-way, as a reduce-scatter: the residual stream stays sharded, (B, D/N), and is
gathered when the next norm reads it.

References
----------
.. [1] tt-metal, models/tt_transformers/tt/: ccl.py, ``tt_all_reduce``, ``tt_all_gather``;
   model_config.py, ``num_all_gather_links``, ``num_reduce_scatter_links``.
"""

from dataclasses import replace

from galaxy_mpi.ccl.algorithms import GENERIC_DECODE, GENERIC_PREFILL
from galaxy_mpi.systems.ops.add_norm import AddNorm, ScatteredAddNorm
from galaxy_mpi.systems.ops.attention import Attention
from galaxy_mpi.systems.ops.cache import UpdateCache
from galaxy_mpi.systems.ops.gate_up import GateUp
from galaxy_mpi.systems.ops.head import AllLogits, Logits, PrefillLogits
from galaxy_mpi.systems.ops.merge_heads import MergeHeads
from galaxy_mpi.systems.ops.norm_heads import NormHeads
from galaxy_mpi.systems.ops.prefill_attention import PrefillAttention
from galaxy_mpi.systems.ops.prefill_cache import FillCache
from galaxy_mpi.systems.ops.prefill_matmul import (
    PrefillDown,
    PrefillGateUp,
    PrefillOutput,
    PrefillQkvHeads,
    ScatteredPrefillDown,
    ScatteredPrefillOutput,
)
from galaxy_mpi.systems.ops.prefill_norm import (
    LastTiles,
    PrefillAdd,
    PrefillNorm,
    ScatteredPrefillNorm,
)
from galaxy_mpi.systems.ops.qkv_heads import QkvHeads
from galaxy_mpi.systems.ops.reduce import Reduce, ScatteredReduce
from galaxy_mpi.systems.ops.rotate import Rotate
from galaxy_mpi.systems.ops.sample import HostSample
from galaxy_mpi.systems.settings import TT_TRANSFORMERS_SETTINGS
from galaxy_mpi.systems.site import Fabric
from galaxy_mpi.systems.table import DecodeTable, PrefillTable, System
from galaxy_mpi.systems.tt_transformers_formats import MESH_FORMATS, ROW_FORMATS

__all__ = ["TT_TRANSFORMERS", "TT_TRANSFORMERS_1D"]

TT_TRANSFORMERS = System(
    name="tt_transformers",
    decode=DecodeTable(
        add_norm=AddNorm,
        qkv_heads=QkvHeads,
        norm_heads=NormHeads,
        rotate=Rotate,
        update_cache=UpdateCache,
        attention=Attention,
        merge_heads=MergeHeads,
        output=Reduce,
        gate_up=GateUp,
        down=Reduce,
        logits=Logits,
        sample=HostSample,
    ),
    prefill=PrefillTable(
        norm=PrefillNorm,
        qkv_heads=PrefillQkvHeads,
        norm_heads=NormHeads,
        rotate=Rotate,
        fill_cache=FillCache,
        attention=PrefillAttention,
        output=PrefillOutput,
        add=PrefillAdd,
        gate_up=PrefillGateUp,
        down=PrefillDown,
        last_tiles=LastTiles,
        logits=PrefillLogits,
        all_logits=AllLogits,
        sample=HostSample,
    ),
    fabric=Fabric(
        is_line=True,
        gather_links=2,
        scatter_links=1,
        laps=2,
        skips_alone=True,
        workers=2,
        ring_matmuls=False,
    ),
    formats=MESH_FORMATS,
    other_formats=(ROW_FORMATS, MESH_FORMATS),
    settings=TT_TRANSFORMERS_SETTINGS,
    decode_algorithms=GENERIC_DECODE,
    prefill_algorithms=GENERIC_PREFILL,
    is_persistent=False,
    prefetch=False,
)

TT_TRANSFORMERS_1D = replace(
    TT_TRANSFORMERS,
    decode=replace(
        TT_TRANSFORMERS.decode,
        add_norm=ScatteredAddNorm,
        output=ScatteredReduce,
        down=ScatteredReduce,
    ),
    prefill=replace(
        TT_TRANSFORMERS.prefill,
        norm=ScatteredPrefillNorm,
        output=ScatteredPrefillOutput,
        down=ScatteredPrefillDown,
    ),
    formats=ROW_FORMATS,
    fabric=replace(TT_TRANSFORMERS.fabric, gather_links=1, is_line=False),
    is_scattered=True,
)
