"""Matmuls of long sequences, in blocks of rows that the caller chooses."""

from collections.abc import Callable, Sequence

import numpy as np

from galaxy_mpi.arrays import F32

__all__ = ["ROW_BLOCK", "matmul", "minimal_matmul"]

ROW_BLOCK = 128
"""Most rows of a block: the grain of prefill (padding, prefix caching, attention)."""


def matmul(x_SI: F32, n_out: int, blocks: Sequence[slice], multiply: Callable[[F32], F32]) -> F32:
    """Return ``multiply(x)``, (S, O), a matrix product for each of ``blocks``."""
    return minimal_matmul(x_SI, n_out, blocks, multiply, lambda product: product)


def minimal_matmul(
    x_SI: F32,
    n_out: int,
    blocks: Sequence[slice],
    multiply: Callable[[F32], F32],
    round: Callable[[F32], F32],
) -> F32:
    """Return ``round(multiply(x))``, rounding each block of rows when it is made.

    The same bits as rounding the whole product, which this never holds: for long sequences.

    References
    ----------
    .. [1] tt-metal, ``ttnn.experimental.minimal_matmul``.
    """
    out = np.empty((len(x_SI), n_out), np.float32)
    for rows in blocks:
        out[rows] = round(multiply(x_SI[rows]))
    return out
