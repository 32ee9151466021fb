"""One packed block per member: packing, unpacking and adding them together."""

import numpy as np

from galaxy_mpi.arrays import F32, Bytes
from galaxy_mpi.dtypes import FLOAT32, DType

__all__ = ["add_in_order", "pack_blocks", "sum_blocks", "unpack_blocks"]


def add_in_order(terms: F32) -> F32:
    """Return ``((terms[0] + terms[1]) + terms[2]) + ...``: a new array.

    numpy adds whole rows one after the other when it reduces the outermost dim.
    """
    total: F32 = np.add.reduce(terms, axis=0)
    return total


def pack_blocks(dtype: DType, values: F32, out: Bytes) -> None:
    """Pack one block per member of ``values`` (size, *shape) into ``out`` (size, n)."""
    if dtype.packed_bytes(values.shape) == out.size:  # as one: no row of a tile is padding
        out.reshape(-1)[...] = dtype.pack(values)
        return
    for block, part in zip(out, values, strict=True):
        block[...] = dtype.pack(part)


def sum_blocks(dtype: DType, blocks: Bytes, terms: F32) -> F32:
    """Return the sum of one packed block per member, in their order; ``terms`` is scratch."""
    if dtype is FLOAT32:
        return add_in_order(blocks.view(np.float32).reshape(terms.shape))
    unpack_blocks(dtype, blocks, terms)
    return add_in_order(terms)


def unpack_blocks(dtype: DType, blocks: Bytes, out: F32) -> None:
    """Unpack one block per member into ``out`` of shape (size, *shape)."""
    if dtype.packed_bytes(out.shape) == blocks.size:  # as one: no row of a tile is padding
        dtype.unpack(blocks.reshape(-1), out.shape, out)
        return
    for block, values in zip(blocks, out, strict=True):
        dtype.unpack(block, values.shape, values)
