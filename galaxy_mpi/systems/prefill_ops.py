"""Ops of prefill that join a kernel and a collective, as the Galaxy has them.

Shapes are per chip; S rows of a pass, otherwise the letters of `galaxy_mpi.systems.fused_ops`.
"""

from collections import deque
from collections.abc import Callable, Sequence

import numpy as np

from galaxy_mpi.arrays import F32
from galaxy_mpi.ccl import BufferKey, PrefillCCL
from galaxy_mpi.dtypes import DType
from galaxy_mpi.mesh import Axis
from galaxy_mpi.systems.modules import Attention
from galaxy_mpi.systems.ops import beside_each_other
from galaxy_mpi.systems.prefill_pass import query_chunks

__all__ = [
    "all_gather_minimal_matmul",
    "prefix_attention",
    "ring_attention",
]


def all_gather_minimal_matmul(
    ccl: PrefillCCL,
    act_shard_SF: F32,
    n_out: int,
    blocks: Sequence[slice],
    multiply: Callable[[F32], F32],
    *,
    dtype: DType,
) -> F32:
    """Gather over the row and multiply, never holding the gathered whole as values.

    Parameters
    ----------
    act_shard_SF : ndarray of shape (S, F/(R*C)), values of ``dtype``
    n_out : int
        Columns of w2: D/C.
    blocks : sequence of slice
        Rows that are multiplied at once.
    multiply : callable
        By w2, (rows, F/R) to (rows, D/C).
    dtype : DType
        Of what travels, and of the result.

    Returns
    -------
    ndarray of shape (S, D/C)
        This chip's term of the sum over ``Axis.ROWS``: the bits of gather and matmul apart.

    References
    ----------
    .. [1] tt-metal, llama_mlp.py, ``all_gather_minimal_matmul_async``.
    """
    out = np.empty((len(act_shard_SF), n_out), np.float32)
    todo = deque(blocks)
    width = ccl.size(Axis.COLS) * act_shard_SF.shape[1]
    kept = np.empty((0, width), np.float32)  # rows that have come but fill no block yet
    for rows, gathered in ccl.gather_slabs(
        act_shard_SF, axis=Axis.COLS, dtype=dtype, key=BufferKey.BINARY_MUL
    ):
        kept = np.concatenate([kept, beside_each_other(gathered)])
        first = rows.stop - len(kept)
        while todo and todo[0].stop <= rows.stop:
            block = todo.popleft()
            out[block] = dtype.round(multiply(kept[block.start - first : block.stop - first]))
        kept = kept[todo[0].start - first :] if todo else kept[:0]
    return out


def ring_attention(
    ccl: PrefillCCL,
    attention: Attention,
    q_SNH: F32,
    k_KTH: F32,
    v_KTH: F32,
    *,
    length: int,
    column: int,
    dtype: DType,
) -> F32:
    """Attend with the queries cut over the columns, and gather what they give.

    Keys and values are whole on every column. Of 2 C chunks of the queries, column i takes chunk
    i and chunk i from the back, which is equal causal work for all; the early halves are gathered
    in the order of the columns, the late halves in reverse.

    Parameters
    ----------
    q_SNH : ndarray of shape (S, N/R, H)
    k_KTH, v_KTH : ndarray of shape (K/R, S, H)
    length : int
        Rows of the sequence on the device, which are cut in chunks; the host has the first S.
    column : int
        This chip's.
    dtype : DType
        Of the result.

    Returns
    -------
    ndarray of shape (S, N/R * H)

    References
    ----------
    .. [1] tt-metal, llama_attention.py, ``ring_distributed_scaled_dot_product_attention``.
    """
    n_rows, width = len(q_SNH), q_SNH.shape[1] * q_SNH.shape[2]
    early, late = query_chunks(length, ccl.size(Axis.COLS), column)

    def gathered(chunk: slice, key: str) -> F32:
        mixed = np.zeros((chunk.stop - chunk.start, width), np.float32)
        queries = q_SNH[chunk]
        if len(queries):
            heads = attention.prefill(queries, k_KTH, v_KTH, start=chunk.start)
            mixed[: len(queries)] = heads.reshape(len(queries), width)
        return ccl.all_gather(mixed, axis=Axis.COLS, dtype=dtype, key=key)

    in_order = gathered(early, BufferKey.SDPA)
    reverse = gathered(late, BufferKey.SDPA_REVERSE)[::-1]
    return np.concatenate([in_order, reverse]).reshape(length, width)[:n_rows]


def prefix_attention(
    ccl: PrefillCCL,
    attention: Attention,
    q_SNH: F32,
    k_KTH: F32,
    v_KTH: F32,
    *,
    start: int,
    is_owner: bool,
    dtype: DType,
) -> F32:
    """Attend to a cached prefix, which only one column has, and to the new tokens.

    The other columns' results are masked with zeros and all are summed over the row. (The device
    computes them before it masks them; the host does not.)

    Parameters
    ----------
    q_SNH : ndarray of shape (S, N/R, H)
    k_KTH, v_KTH : ndarray of shape (K/R, start + S, H)
        Cached and new positions; not read unless ``is_owner``.
    start : int
        Cached positions.
    is_owner : bool
        Whether this column has the prefix.
    dtype : DType
        Of the result: sums with zeros are exact in any.

    Returns
    -------
    ndarray of shape (S, N/R * H)
    """
    mixed = np.zeros((len(q_SNH), q_SNH.shape[1] * q_SNH.shape[2]), np.float32)
    if is_owner:
        heads = attention.prefill(q_SNH, k_KTH, v_KTH, start=start)
        mixed[...] = heads.reshape(mixed.shape)
    return ccl.all_reduce(mixed, axis=Axis.COLS, dtype=dtype, key=BufferKey.SDPA)
