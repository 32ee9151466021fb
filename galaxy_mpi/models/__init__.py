"""The model: its sizes, the sharding of its weights, and the structure of a layer.

There are no collectives and no times here: a layer calls the ops of a system.
"""

from galaxy_mpi.models.config import LlamaConfig, RopeScaling
from galaxy_mpi.models.decoder import Decoder
from galaxy_mpi.models.layout import HeadSlot, Layout, chosen_layout
from galaxy_mpi.models.load import ChipWeights, PackedOnce, load_chip_weights, shard_parts
from galaxy_mpi.models.model_order import ModelOrder
from galaxy_mpi.models.programs import Programs
from galaxy_mpi.models.shard_cache import ShardFile
from galaxy_mpi.models.sharding import Sharding, TensorReader

__all__ = [
    "ChipWeights",
    "Decoder",
    "HeadSlot",
    "Layout",
    "LlamaConfig",
    "ModelOrder",
    "PackedOnce",
    "Programs",
    "RopeScaling",
    "ShardFile",
    "Sharding",
    "TensorReader",
    "chosen_layout",
    "load_chip_weights",
    "shard_parts",
]
