"""How an op is done on the machine: which ops are fused, what travels, in which dtype."""

from galaxy_mpi.systems.galaxy import Galaxy
from galaxy_mpi.systems.kv_cache import KVCache
from galaxy_mpi.systems.precision import PRECISIONS, Precision
from galaxy_mpi.systems.system import HeadLayout, System

__all__ = ["PRECISIONS", "Galaxy", "HeadLayout", "KVCache", "Precision", "System"]
