"""Matmuls of long sequences, in blocks of rows."""

from collections.abc import Callable

import numpy as np

from galaxy_mpi.arrays import F32

__all__ = ["ROW_BLOCK", "matmul", "minimal_matmul"]

ROW_BLOCK = 128
"""Rows multiplied at once. A BLAS may add in another order when a matrix has more rows; with
blocks of one size a row's bits depend on its own block alone, whatever sequence it is part of."""


def matmul(x_SI: F32, w_IO: F32) -> F32:
    """Return ``x @ w``, (S, O), block by block of `ROW_BLOCK` rows."""
    return minimal_matmul(x_SI, w_IO, lambda block: block)


def minimal_matmul(x_SI: F32, w_IO: F32, round: Callable[[F32], F32]) -> F32:
    """Return ``round(x @ w)``, rounding each block of rows when it is made.

    The same bits as rounding the whole product, which this never holds: for long sequences.

    References
    ----------
    .. [1] tt-metal, ``ttnn.experimental.minimal_matmul``.
    """
    out = np.empty((len(x_SI), w_IO.shape[1]), np.float32)
    for start in range(0, len(x_SI), ROW_BLOCK):
        rows = slice(start, start + ROW_BLOCK)
        out[rows] = round(x_SI[rows] @ w_IO)
    return out
