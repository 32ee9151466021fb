"""The collectives of decode: everything comes to whoever needs it at once (`Group.board`).

In reductions each term is rounded when it is packed, the sum once at the end, and nothing in
between. The order is that of the members, so all who add the same terms get the same bits.
"""

import math

import numpy as np

from galaxy_mpi.arrays import F32, Bytes
from galaxy_mpi.ccl.blocks import terms_of, unpack_blocks
from galaxy_mpi.ccl.stamps import Stamping
from galaxy_mpi.dtypes import FACE, FLOAT32, DType
from galaxy_mpi.mesh import Board, Group

__all__ = [
    "GatheredAllReduce",
    "GatheredBlocks",
    "GatheredReduceScatter",
    "PlainAllReduce",
    "ScatteredAllReduce",
    "all_reduce_at_once",
]


def _meet(board: Board, index: int, stamping: Stamping | None) -> None:
    """Meet the others at a table, with the time at which this chip comes."""
    if stamping is None:
        board.meet()
        return
    board.stamps[index] = stamping.enter()
    board.meet()
    stamping.leave(board.stamps)


class GatheredBlocks:
    """Every member gets every member's block of bytes, in order of the members.

    Parameters
    ----------
    group, num_links, label
        As in `galaxy_mpi.ccl.AllGather`.
    n_bytes : int
        Bytes of one block, the same on all members.
    """

    def __init__(self, group: Group, n_bytes: int, *, num_links: int, label: str) -> None:
        self._board = group.board(n_bytes, in_parts=False, num_links=num_links, label=label)
        self._mine, self._index = self._board.rows[group.index], group.index
        self.n_bytes = self._board.rows.nbytes

    def __call__(self, block: Bytes, stamping: Stamping | None = None) -> Bytes:
        """Return all blocks, shape (size, n_bytes): a view, valid until the next but one call."""
        self._mine[...] = block
        _meet(self._board, self._index, stamping)
        return self._board.rows

    def free(self) -> None:
        """Release the table."""
        self._board.free()


class GatheredReduceScatter:
    """The owner of a chunk gets all terms.

    Parameters
    ----------
    group, num_links, label
        As in `galaxy_mpi.ccl.AllGather`.
    shape : tuple of int
        Shape of one chunk.
    dtype : DType
        Of the messages and of the result.
    """

    def __init__(
        self, group: Group, shape: tuple[int, ...], dtype: DType, *, num_links: int, label: str
    ) -> None:
        self._index, self._dtype = group.index, dtype
        size, n_bytes = group.size, dtype.packed_bytes(shape)
        self._board = group.board(size * n_bytes, in_parts=True, num_links=num_links, label=label)
        table = self._board.rows.reshape(size, size, n_bytes)
        self._terms = terms_of(dtype, table[group.index], table[:, group.index], shape)
        self.n_bytes = self._board.rows.nbytes

    def __call__(self, chunks: F32, stamping: Stamping | None = None) -> F32:
        """Return the sum of this chip's chunk, as `ReduceScatter` does: a new array."""
        return self._dtype.round(self.unrounded(chunks, stamping))

    def unrounded(self, chunks: F32, stamping: Stamping | None = None) -> F32:
        """Return the sum before it is rounded, for whoever packs it next."""
        self._terms.put(chunks)
        _meet(self._board, self._index, stamping)
        return self._terms.total()

    def free(self) -> None:
        """Release the table."""
        self._board.free()


class GatheredAllReduce:
    """Every member gathers all terms and adds them; for small tensors.

    Parameters
    ----------
    group, shape, dtype, num_links, label
        As in `galaxy_mpi.ccl.AllReduce`.
    """

    def __init__(
        self, group: Group, shape: tuple[int, ...], dtype: DType, *, num_links: int, label: str
    ) -> None:
        self._index, self._dtype = group.index, dtype
        n_bytes = dtype.packed_bytes(shape)
        self._board = group.board(n_bytes, in_parts=False, num_links=num_links, label=label)
        rows = self._board.rows
        self._terms = terms_of(dtype, rows[group.index], rows, shape)
        self.n_bytes = rows.nbytes

    def __call__(self, values: F32, stamping: Stamping | None = None) -> F32:
        """Return the sum over the group, rounded to the dtype: a new array."""
        self._terms.put(values)
        _meet(self._board, self._index, stamping)
        return self._dtype.round(self._terms.total())

    def free(self) -> None:
        """Release the table."""
        self._board.free()


class ScatteredAllReduce:
    """Every member adds the terms of a part, and gathers the parts: the same bits, less work.

    The tensor is cut along its last dim, where blocks that share an exponent end.

    Parameters
    ----------
    group, shape, dtype, num_links, label
        As in `galaxy_mpi.ccl.AllReduce`.
    """

    def __init__(
        self, group: Group, shape: tuple[int, ...], dtype: DType, *, num_links: int, label: str
    ) -> None:
        self._shape, self._dtype, self._size = shape, dtype, group.size
        self._part = (math.prod(shape[:-1]), part_width(shape, group.size))
        self._scatter = GatheredReduceScatter(
            group, self._part, dtype, num_links=num_links, label=label
        )
        n_bytes = dtype.packed_bytes(self._part)
        self._gather = GatheredBlocks(group, n_bytes, num_links=num_links, label=label)
        self._parts = np.empty((group.size, *self._part), np.float32)
        self.n_bytes = self._scatter.n_bytes + self._gather.n_bytes

    def __call__(self, values: F32, stamping: Stamping | None = None) -> F32:
        """Return the sum over the group, rounded to the dtype: a new array."""
        (rows, width), columns, size = self._part, self._shape[-1], self._size
        wide = values.reshape(rows, columns)
        if columns < size * width:
            wide = np.zeros((rows, size * width), np.float32)
            wide[:, :columns] = values.reshape(rows, columns)
        chunks = wide.reshape(rows, size, width).swapaxes(0, 1)
        mine = self._scatter.unrounded(chunks, stamping)
        blocks = self._gather(self._dtype.pack(mine))
        unpack_blocks(self._dtype, blocks, self._parts)
        total = self._parts.swapaxes(0, 1).reshape(rows, -1)[:, :columns]
        return np.ascontiguousarray(total).reshape(self._shape)

    def free(self) -> None:
        """Release the tables."""
        self._scatter.free()
        self._gather.free()


class PlainAllReduce:
    """As `ScatteredAllReduce` for float32, which can be cut anywhere: parts of the flat tensor.

    Parameters
    ----------
    group, shape, num_links, label
        As in `galaxy_mpi.ccl.AllReduce`.
    """

    def __init__(self, group: Group, shape: tuple[int, ...], *, num_links: int, label: str) -> None:
        self._shape, self._index, self._n = shape, group.index, math.prod(shape)
        size, width = group.size, -(-self._n // group.size)
        terms, sums = (
            group.board(4 * n, in_parts=in_parts, num_links=num_links, label=label)
            for n, in_parts in ((size * width, True), (width, False))
        )
        table = terms.rows.view(np.float32)
        self._out, self._rest_of_out = table[group.index, : self._n], table[group.index, self._n :]
        self._rest_of_out[...] = 0
        here = slice(group.index * width, (group.index + 1) * width)
        self._in = [row[here] for row in table]
        self._mine = sums.rows[group.index].view(np.float32)
        self._whole = sums.rows.view(np.float32).reshape(-1)[: self._n]
        self._terms, self._sums = terms, sums
        self.n_bytes = terms.rows.nbytes + sums.rows.nbytes

    def __call__(self, values: F32, stamping: Stamping | None = None) -> F32:
        """Return the sum over the group: a new array."""
        self._out[...] = values.reshape(-1)
        _meet(self._terms, self._index, stamping)
        mine, (first, *rest) = self._mine, self._in
        mine[...] = first
        for term in rest:
            np.add(mine, term, mine)
        self._sums.meet()
        return self._whole.copy().reshape(self._shape)

    def free(self) -> None:
        """Release the tables."""
        self._terms.free()
        self._sums.free()


WORTH_PARTS = 2**14
"""Values of a tensor from which adding them on one chip only is worth another meeting."""


def part_width(shape: tuple[int, ...], size: int) -> int:
    """Return the columns of a part: whole blocks of values that share an exponent."""
    return -(-shape[-1] // (FACE * size)) * FACE


def all_reduce_at_once(
    group: Group, shape: tuple[int, ...], dtype: DType, *, num_links: int, label: str
) -> GatheredAllReduce | ScatteredAllReduce | PlainAllReduce:
    """Return the quickest for a shape; the bits are the same."""
    # Parts that are mostly padding would be more bytes, not fewer.
    fits = part_width(shape, group.size) * group.size < 2 * shape[-1]
    is_large = math.prod(shape) >= WORTH_PARTS
    if is_large and dtype is FLOAT32:
        return PlainAllReduce(group, shape, num_links=num_links, label=label)
    if is_large and fits:
        return ScatteredAllReduce(group, shape, dtype, num_links=num_links, label=label)
    return GatheredAllReduce(group, shape, dtype, num_links=num_links, label=label)
