"""Arithmetic of one chip, in float32 on plain arrays: no rounding, no weight store, no messages.

Systems round the results to the format of the op.
"""

from galaxy_mpi.kernels.activation import silu_mul
from galaxy_mpi.kernels.attention import ROW_BLOCK, attention_decode, attention_prefill
from galaxy_mpi.kernels.fidelity import Fidelity
from galaxy_mpi.kernels.multiply import LARGE, chosen_product, column_parts
from galaxy_mpi.kernels.norm import rms_norm_heads, rms_scale, sum_of_squares
from galaxy_mpi.kernels.rotary import RotaryTable, rotate
from galaxy_mpi.kernels.sampling import SamplingParams, TopK, choose

__all__ = [
    "LARGE",
    "ROW_BLOCK",
    "Fidelity",
    "RotaryTable",
    "SamplingParams",
    "TopK",
    "attention_decode",
    "attention_prefill",
    "choose",
    "chosen_product",
    "column_parts",
    "rms_norm_heads",
    "rms_scale",
    "rotate",
    "silu_mul",
    "sum_of_squares",
]
