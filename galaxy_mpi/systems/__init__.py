"""How a machine executes a model: which ops are fused, what is sent, in which formats."""

from galaxy_mpi.systems.catalogue import PRECISIONS, SYSTEMS, name_of_system, system_of
from galaxy_mpi.systems.chip import ChipBinder, ChipState, StepInputs, WeightFeed
from galaxy_mpi.systems.galaxy import GALAXY
from galaxy_mpi.systems.kv_cache import KVCache, PageTable
from galaxy_mpi.systems.modules import Attention, Modules, RMSNorm
from galaxy_mpi.systems.precision import Precision
from galaxy_mpi.systems.prefill_pass import PassShape, PrefillPass, PrefillUser
from galaxy_mpi.systems.site import ChipShape, Fabric, Site
from galaxy_mpi.systems.table import DecodeTable, PrefillTable, System, then
from galaxy_mpi.systems.tt_transformers import TT_TRANSFORMERS, TT_TRANSFORMERS_1D
from galaxy_mpi.systems.user_file import chosen_modules, chosen_system, class_from_file
from galaxy_mpi.systems.wanted import Wanted

__all__ = [
    "GALAXY",
    "PRECISIONS",
    "SYSTEMS",
    "TT_TRANSFORMERS",
    "TT_TRANSFORMERS_1D",
    "Attention",
    "ChipBinder",
    "ChipShape",
    "ChipState",
    "DecodeTable",
    "Fabric",
    "KVCache",
    "Modules",
    "PageTable",
    "PassShape",
    "Precision",
    "PrefillPass",
    "PrefillTable",
    "PrefillUser",
    "RMSNorm",
    "Site",
    "StepInputs",
    "System",
    "Wanted",
    "WeightFeed",
    "chosen_modules",
    "chosen_system",
    "class_from_file",
    "name_of_system",
    "system_of",
    "then",
]
