"""Ops that join a kernel and a collective in one, as the Galaxy has them.

Shapes are per chip. B users of the batch, D model dim, F feed-forward dim, N query heads, K kv
heads, H head dim, X = (N + 2K) H; R and C mesh rows and columns. What is summed or gathered
crosses the chips of one row (``Axis.COLS``).
"""

from collections.abc import Callable

import numpy as np

from galaxy_mpi.arrays import F32
from galaxy_mpi.ccl import CCL, BufferKey
from galaxy_mpi.dtypes import DType
from galaxy_mpi.mesh import Axis
from galaxy_mpi.systems.modules import RMSNorm
from galaxy_mpi.systems.ops import HeadLayout, distributed_norm

__all__ = [
    "add_norm",
    "all_gather_concat",
    "double_matmul_reduce_scatter",
    "reduce_scatter_create_heads",
]


def add_norm(
    ccl: CCL,
    norm: RMSNorm,
    x_shard_BD: F32,
    residual_shard_BD: F32 | None,
    gain_shard_D: F32,
    *,
    activation: DType,
    statistics: DType,
) -> tuple[F32, F32]:
    """Add the residual and normalise, with the statistics gathered over the row.

    Parameters
    ----------
    norm : RMSNorm
    x_shard_BD : ndarray of shape (B, D/C)
        What the last sub-layer gave; the same on all rows.
    residual_shard_BD : ndarray of shape (B, D/C) or None
        None before the first layer.
    gain_shard_D, activation, statistics
        As in `galaxy_mpi.systems.ops.distributed_norm`.

    Returns
    -------
    normalised, residual : ndarray of shape (B, D/C), values of ``activation``

    References
    ----------
    .. [1] tt-metal, models/demos/llama3_70b_galaxy/tt/distributed_norm.py, ``rms_norm``.
    """
    if residual_shard_BD is None:
        residual = x_shard_BD
    else:
        residual = activation.round(x_shard_BD + residual_shard_BD)
    normalised = distributed_norm(
        ccl, norm, residual, gain_shard_D, activation=activation, statistics=statistics
    )
    return normalised, residual


def reduce_scatter_create_heads(
    ccl: CCL, qkv_partial_BX: F32, layout: HeadLayout, *, dtype: DType
) -> tuple[F32, F32, F32]:
    """Sum over the columns, keep this column's users, and cut into heads.

    Parameters
    ----------
    qkv_partial_BX : ndarray of shape (B, X/R)
        This chip's term of the sum over ``Axis.COLS``.
    dtype : DType
        Of the running sum that travels, and of the result.

    Returns
    -------
    q, k, v : ndarray of shape (B/C, N/R, H), (B/C, K/R, H), (B/C, K/R, H)

    References
    ----------
    .. [1] tt-metal, llama_ccl.py, ``TT_CCL.llama_rs_create_heads``.
    """
    n_users, width = qkv_partial_BX.shape
    chunks = qkv_partial_BX.reshape(ccl.size(Axis.COLS), -1, width)
    assert chunks.shape[0] * chunks.shape[1] == n_users
    qkv = ccl.reduce_scatter(chunks, axis=Axis.COLS, dtype=dtype, key=BufferKey.CREATE_HEADS)
    return layout.split(qkv)


def all_gather_concat(ccl: CCL, attention_BNH: F32, *, dtype: DType) -> F32:
    """Gather the users of all columns and lay their heads side by side.

    Parameters
    ----------
    attention_BNH : ndarray of shape (B/C, N/R, H)

    Returns
    -------
    ndarray of shape (B, N/R * H), values of ``dtype``

    References
    ----------
    .. [1] tt-metal, llama_ccl.py, ``TT_CCL.all_gather_concat``.
    """
    rows = attention_BNH.reshape(len(attention_BNH), -1)
    gathered = ccl.all_gather(rows, axis=Axis.COLS, dtype=dtype, key=BufferKey.CONCAT_HEADS)
    return gathered.reshape(-1, rows.shape[1])


def double_matmul_reduce_scatter(
    ccl: CCL, gate_partial_BF: F32, multiply_up: Callable[[], F32], *, dtype: DType
) -> tuple[F32, F32]:
    """Multiply twice, and sum both products over the columns.

    The device sends the first product while it computes the second, and then the second. The
    host sends both in one pass, because handing over is what costs there: blocks of 16 values do
    not know of each other, so the bytes and the values are those of two passes.

    Parameters
    ----------
    gate_partial_BF : ndarray of shape (B, F/R)
        Product with w1: this chip's term of the sum over ``Axis.COLS``.
    multiply_up : callable
        Returns the product with w3, of the same shape.
    dtype : DType
        Of the running sums that travel, and of the results.

    Returns
    -------
    gate_shard_BF, up_shard_BF : ndarray of shape (B, F/(R*C)), values of ``dtype``

    References
    ----------
    .. [1] tt-metal, llama_ccl.py, ``TT_CCL.double_matmul_line_reduce_scatter``.
    """
    n_users, n_cols = len(gate_partial_BF), ccl.size(Axis.COLS)
    width = gate_partial_BF.shape[1] // n_cols
    chunks = np.empty((n_cols, n_users, 2, width), np.float32)
    chunks[:, :, 0] = gate_partial_BF.reshape(n_users, n_cols, width).swapaxes(0, 1)
    chunks[:, :, 1] = multiply_up().reshape(n_users, n_cols, width).swapaxes(0, 1)
    both = ccl.reduce_scatter(chunks, axis=Axis.COLS, dtype=dtype, key=BufferKey.GATE_UP)
    return both[:, 0], both[:, 1]
