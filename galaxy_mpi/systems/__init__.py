"""How an op is done on the machine: which ops are fused, what travels, in which dtype."""

from galaxy_mpi.systems.catalogue import SYSTEMS, System, system_of
from galaxy_mpi.systems.kv_cache import KVCache, PageTable
from galaxy_mpi.systems.modules import Attention, Modules, RMSNorm
from galaxy_mpi.systems.precision import PRECISIONS, Precision
from galaxy_mpi.systems.prefill_pass import PrefillPass, PrefillUser
from galaxy_mpi.systems.prefill_system import PrefillSystem
from galaxy_mpi.systems.system import DecodeSystem, HeadLayout, ModelShape

__all__ = [
    "PRECISIONS",
    "SYSTEMS",
    "Attention",
    "DecodeSystem",
    "HeadLayout",
    "KVCache",
    "ModelShape",
    "Modules",
    "PageTable",
    "Precision",
    "PrefillPass",
    "PrefillSystem",
    "PrefillUser",
    "RMSNorm",
    "System",
    "system_of",
]
