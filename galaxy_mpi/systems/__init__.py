"""How an op is done on the machine: which ops are fused, what travels, in which dtype."""

from galaxy_mpi.systems.galaxy import GalaxyDecode, GalaxyPrefill
from galaxy_mpi.systems.kv_cache import KVCache, PageTable
from galaxy_mpi.systems.matrix_unit import MatrixUnit
from galaxy_mpi.systems.precision import PRECISIONS, Precision
from galaxy_mpi.systems.prefill_pass import PrefillPass, PrefillUser
from galaxy_mpi.systems.prefill_system import PrefillSystem
from galaxy_mpi.systems.system import DecodeSystem, HeadLayout, ModelShape

__all__ = [
    "PRECISIONS",
    "DecodeSystem",
    "GalaxyDecode",
    "GalaxyPrefill",
    "HeadLayout",
    "KVCache",
    "MatrixUnit",
    "ModelShape",
    "PageTable",
    "Precision",
    "PrefillPass",
    "PrefillSystem",
    "PrefillUser",
]
