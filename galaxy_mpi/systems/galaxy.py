"""The specialised system: fused ops on a ring, prefetched weights, persistent buffers.

It is the generic system (`galaxy_mpi.systems.tt_transformers`) with these ops replaced. Decode ops
are numbered as in the original's decode layer.
"""

from dataclasses import replace

from galaxy_mpi.ccl.algorithms import DIRECT, GALAXY_PREFILL
from galaxy_mpi.systems.galaxy_formats import GALAXY_FORMATS
from galaxy_mpi.systems.ops.add_norm import FusedAddNorm
from galaxy_mpi.systems.ops.attention import SlottedAttention
from galaxy_mpi.systems.ops.cache import FusedUpdateCache
from galaxy_mpi.systems.ops.gate_up import FusedGateUp
from galaxy_mpi.systems.ops.head import FusedLogits
from galaxy_mpi.systems.ops.merge_heads import FusedMergeHeads
from galaxy_mpi.systems.ops.norm_heads import SlottedNormHeads
from galaxy_mpi.systems.ops.prefill_attention import RingPrefillAttention
from galaxy_mpi.systems.ops.prefill_matmul import MinimalDown
from galaxy_mpi.systems.ops.qkv_heads import FusedQkvHeads
from galaxy_mpi.systems.ops.reduce import FusedReduce
from galaxy_mpi.systems.ops.rotate import FusedRotate
from galaxy_mpi.systems.ops.sample import Sample
from galaxy_mpi.systems.settings import GALAXY_SETTINGS
from galaxy_mpi.systems.site import Fabric
from galaxy_mpi.systems.tt_transformers import TT_TRANSFORMERS

__all__ = ["GALAXY"]

GALAXY = replace(
    TT_TRANSFORMERS,
    name="galaxy",
    decode=replace(
        TT_TRANSFORMERS.decode,
        add_norm=FusedAddNorm,  # 1, 10: includes the gather of the statistics
        qkv_heads=FusedQkvHeads,  # 2, 3: the reduce-scatter over users also splits the heads
        norm_heads=SlottedNormHeads,  # 3b: Qwen3
        rotate=FusedRotate,  # 4: q and k in one op
        update_cache=FusedUpdateCache,  # 5: k and v in one op
        attention=SlottedAttention,  # 6: every user slot has its own cores
        merge_heads=FusedMergeHeads,  # 7: the gather over users also concatenates heads
        output=FusedReduce,  # 8, 9: in one step
        gate_up=FusedGateUp,  # 11 to 14: the first product is sent while the second is computed
        down=FusedReduce,  # 15, 16
        logits=FusedLogits,
        sample=Sample,  # on the chips
    ),
    prefill=replace(
        TT_TRANSFORMERS.prefill,
        attention=RingPrefillAttention,  # long prompts: queries are sharded over columns
        down=MinimalDown,  # long prompts: the gather overlaps the matmul
        sample=Sample,
    ),
    formats=GALAXY_FORMATS,
    other_formats=(),
    settings=GALAXY_SETTINGS,
    fabric=Fabric(),
    decode_algorithms=DIRECT,
    prefill_algorithms=GALAXY_PREFILL,
    is_persistent=True,
    prefetch=True,
)
