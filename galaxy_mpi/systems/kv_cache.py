"""Keys and values of this chip's users and kv heads, packed, in blocks of positions.

Which block belongs to whom is decided by the engine, on all chips alike; here are only the bytes
and the page tables that name them.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from galaxy_mpi.arrays import F32, Ints
from galaxy_mpi.dtypes import DType

__all__ = ["KVCache", "PageTable"]


@dataclass(frozen=True)
class PageTable:
    """Where the users of one column are, in a decode step."""

    positions_B: Ints
    """Position of each user's new token; -1 for an idle place."""
    blocks_BP: Ints
    """Numbers of each user's cache blocks, in the order of its positions; -1 behind the last."""
    page_size: int
    """Positions of a block."""

    @cached_property
    def active(self) -> Ints:
        """Places that hold a user."""
        return np.flatnonzero(self.positions_B >= 0)

    @cached_property
    def slots(self) -> tuple[Ints, Ints]:
        """Return (block, place in it) of the new position of each active user."""
        page, place = np.divmod(self.positions_B[self.active], self.page_size)
        return self.blocks_BP[self.active, page], place

    @cached_property
    def same_length(self) -> list[tuple[Ints, Ints]]:
        """Active places with as many blocks each, and these blocks: (places, (G, P)) each.

        Attention is computed for users of one number of blocks at a time, so what a user gets
        depends on its own length, and a short user does not pay for a long one.
        """
        n_blocks = self.positions_B[self.active] // self.page_size + 1
        groups = []
        for n in np.unique(n_blocks):
            places = self.active[n_blocks == n]
            groups.append((places, self.blocks_BP[places, :n]))
        return groups


class KVCache:
    """Cache of one layer on one chip.

    Row r of the mesh holds the kv heads of row r, column c the users of column c. A position is a
    packed row of H values (bfp8: exponents, then data); pages of memory are touched only as
    positions are written.

    Parameters
    ----------
    n_blocks, page_size : int
        Blocks, and positions of a block.
    n_kv_heads, head_dim : int
        Of this chip.
    dtype : DType

    References
    ----------
    .. [1] tt-metal, models/demos/llama3_70b_galaxy: ``PagedAttentionConfig``, [blocks, 1, 64, 128].
    """

    def __init__(
        self, n_blocks: int, page_size: int, n_kv_heads: int, head_dim: int, *, dtype: DType
    ) -> None:
        self.page_size, self._head_dim, self._dtype = page_size, head_dim, dtype
        # Keys and values side by side: one op packs both, one unpacks both.
        shape = (n_blocks, n_kv_heads, page_size, 2, dtype.row_bytes(head_dim))
        self._rows = np.zeros(shape, np.uint8)

    @property
    def block_bytes(self) -> int:
        """Bytes of one block: keys and values of all its positions."""
        return self._rows[:1].nbytes

    def write(self, k_BKH: F32, v_BKH: F32, table: PageTable) -> None:
        """Write one position of each active user, k and v in one op."""
        blocks, places = table.slots
        both = np.stack([k_BKH, v_BKH], axis=2)[table.active]
        self._rows[blocks, :, places] = self._dtype.pack_rows(both)

    def write_keys(self, k_BKH: F32, table: PageTable) -> None:
        """Write one position of each active user's keys."""
        self._write_one(0, k_BKH, table)

    def write_values(self, v_BKH: F32, table: PageTable) -> None:
        """Write one position of each active user's values."""
        self._write_one(1, v_BKH, table)

    def _write_one(self, which: int, values_BKH: F32, table: PageTable) -> None:
        blocks, places = table.slots
        packed = self._dtype.pack_rows(np.ascontiguousarray(values_BKH[table.active]))
        self._rows[blocks, :, places, which] = packed

    def fill(self, k_SKH: F32, v_SKH: F32, blocks: Ints, *, start: int) -> None:
        """Write the positions ``start`` to ``start + S`` of one user.

        Parameters
        ----------
        k_SKH, v_SKH : ndarray of shape (S, K, H)
        blocks : ndarray of int
            The user's blocks from position 0 on.
        start : int
        """
        page, place = np.divmod(np.arange(start, start + len(k_SKH)), self.page_size)
        packed = self._dtype.pack_rows(np.stack([k_SKH, v_SKH], axis=2))
        self._rows[blocks[page], :, place] = packed

    def read(self, blocks_GP: Ints) -> tuple[F32, F32]:
        """Return all positions of the blocks of G users, two arrays of shape (G, K, T, H)."""
        rows = self._rows[blocks_GP].swapaxes(1, 2)  # (G, K, P, page, 2, bytes)
        shape = (*rows.shape[:2], -1, *rows.shape[4:])
        both = self._dtype.unpack_rows(rows.reshape(shape), self._head_dim)
        return both[..., 0, :], both[..., 1, :]
