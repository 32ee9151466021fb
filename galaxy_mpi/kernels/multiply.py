"""The matrix product of one chip: numpy, or torch for large matrices of bfloat16 values.

On a processor with bfloat16 instructions, torch multiplies large matrices of bfloat16 values faster
than numpy. It adds in float32, so no input bits are lost and the result is not rounded. Importing
torch takes seconds in each rank, so it is used only for large weights. It is optional: without it,
numpy multiplies, with the same bits except for the order of additions.
"""

from collections.abc import Callable
from importlib.util import find_spec

import numpy as np

from galaxy_mpi.arrays import F32

__all__ = ["Multiply", "choose_multiply"]

Multiply = Callable[[F32, F32, F32], object]
"""Writes ``x @ w`` in float32 to a third array."""

WORTH_TORCH = 2**20
"""torch is imported if the largest weight has at least this many values."""


def choose_multiply(largest: int, *, is_bfloat16: bool) -> Multiply:
    """Return the multiplication function.

    Parameters
    ----------
    largest : int
        Values of the largest weight.
    is_bfloat16 : bool
        Whether all inputs are values of bfloat16, as those of bfp8 and bfp4 are.
    """
    is_worth_it = is_bfloat16 and largest >= WORTH_TORCH and find_spec("torch") is not None
    return _torch() if is_worth_it else np.matmul


def _torch() -> Multiply:
    import torch

    torch.set_num_threads(1)  # one core a rank

    def multiply(x: F32, w: F32, out: F32) -> None:
        # The setting is the whole process's, and others there may use torch.
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("medium")  # bfloat16 inside: exact for these values
        try:
            torch.mm(torch.from_numpy(x), torch.from_numpy(w), out=torch.from_numpy(out))
        finally:
            torch.set_float32_matmul_precision(before)

    return multiply
