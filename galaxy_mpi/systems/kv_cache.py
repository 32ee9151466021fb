"""Packed keys and values of this chip's users and kv heads, in blocks of positions.

The engine assigns blocks to users, identically on all chips. This module has only the bytes and the
page tables.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from math import gcd
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from galaxy_mpi.arrays import F32, Bytes, Ints
from galaxy_mpi.dtypes import FLOAT32, DType

if TYPE_CHECKING:
    from galaxy_mpi.systems.chip import StepInputs
    from galaxy_mpi.systems.decode_attention import Part

__all__ = ["CacheWriter", "KVCache", "PageTable", "read_size"]

_MOST_READ = 32
"""The most positions that attention reads whole: a tile."""


def read_size(page_size: int) -> int:
    """Return how many adjacent positions of a block attention always reads together."""
    return gcd(page_size, _MOST_READ)


@dataclass(frozen=True)
class PageTable:
    """Page table of the users of one column, for a decode step."""

    positions_B: Ints
    """Position of each user's new token; -1 for an idle slot."""
    blocks_BP: Ints
    """Cache blocks of each user, in the order of positions; -1 after the last."""
    page_size: int
    """Positions per block."""

    @cached_property
    def active(self) -> Ints:
        """Slots with a user."""
        return np.flatnonzero(self.positions_B >= 0)

    @cached_property
    def slots(self) -> Ints:
        """Where each active user's new position goes, counted over all blocks."""
        page, place = np.divmod(self.positions_B[self.active], self.page_size)
        return self.blocks_BP[self.active, page] * self.page_size + place

    @cached_property
    def places(self) -> "_Places":
        """Where each active user's new position goes in caches (K, positions), flattened.

        By (K, positions); shape (K, users).
        """
        return _Places(self.slots)

    @cached_property
    def same_length(self) -> list[tuple[Ints, Ints]]:
        """Active slots grouped by number of runs of positions: (slots, runs (G, n)) each.

        A run is `read_size` positions of a block. Of a user's only block just the runs in use
        count, otherwise whole blocks. Attention is computed per group, so a user's bits depend
        only on its own length, and short users do not pay for long ones.
        """
        size = read_size(self.page_size)
        each = self.page_size // size
        runs_BN = (self.blocks_BP[:, :, None] * each + np.arange(each)).reshape(
            len(self.blocks_BP), -1
        )
        last = self.positions_B[self.active]
        whole = (last // self.page_size + 1) * each
        n_runs = np.where(last < self.page_size, last // size + 1, whole)
        groups = []
        # Not np.unique, whose first call imports numpy.ma, a tenth of what a rank imports.
        for n in sorted(set(n_runs.tolist())):
            places = self.active[n_runs == n]
            groups.append((places, runs_BN[places, :n]))
        return groups

    @cached_property
    def parts(self) -> "dict[tuple[object, ...], list[Part]]":
        """Which users the attention of all layers takes together in this step."""
        return {}


class _Places(dict[tuple[int, int], "Ints"]):
    """`PageTable.places`, computed when a key is first looked up."""

    def __init__(self, slots: Ints) -> None:
        self._slots = slots

    def __missing__(self, key: tuple[int, int]) -> Ints:
        n_kv, n_positions = key
        made = self[key] = n_positions * np.arange(n_kv)[:, None] + self._slots
        return made


class KVCache:
    """Cache of one layer on one chip.

    Mesh row r holds its own kv heads, mesh column c its own users. A position is a packed row of H
    values (bfp8: exponents, then data). Memory pages are touched only when positions are written.

    Parameters
    ----------
    n_blocks, page_size : int
        Blocks, and positions per block.
    n_kv_heads, head_dim : int
        Of this chip.
    dtype : DType

    Attributes
    ----------
    rows : ndarray of shape (K, blocks, page, 2, row bytes), uint8
        Keys and values are adjacent, so that one call packs or unpacks both.

    References
    ----------
    .. [1] tt-metal, models/demos/llama3_70b_galaxy: ``PagedAttentionConfig``, [blocks, 1, 64, 128].
    """

    def __init__(
        self, n_blocks: int, page_size: int, n_kv_heads: int, head_dim: int, *, dtype: DType
    ) -> None:
        self.page_size, self.n_kv_heads, self.head_dim = page_size, n_kv_heads, head_dim
        self.dtype = dtype
        shape = (n_kv_heads, n_blocks, page_size, 2, dtype.row_bytes(head_dim))
        self.rows = np.zeros(shape, np.uint8)

    @property
    def block_bytes(self) -> int:
        """Bytes of one block, with keys and values of all its positions."""
        return self.rows[:, :1].nbytes

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
        packed = self.dtype.pack_rows(np.stack([k_SKH, v_SKH], axis=2))
        self.rows[:, blocks[page], place] = packed.swapaxes(0, 1)

    def read(self, blocks_P: Ints) -> tuple[F32, F32]:
        """Return all positions of one user's blocks, two arrays of shape (K, T, H)."""
        rows = self.rows[:, blocks_P]  # (K, P, page, 2, bytes)
        both = self.dtype.unpack_rows(rows, self.head_dim)
        both = both.reshape(self.n_kv_heads, -1, 2, self.head_dim)
        return both[:, :, 0], both[:, :, 1]


class CacheWriter:
    """Writes one position of each active user, k and v in one call.

    Parameters
    ----------
    cache : KVCache
    both_BK2H : ndarray of shape (B, K, 2, H)
        Keys and values, adjacent.
    inputs : StepInputs
        Its ``table`` is the page table of the users.
    """

    def __init__(self, cache: KVCache, both_BK2H: F32, inputs: "StepInputs") -> None:
        self._inputs = inputs
        rows = both_BK2H.reshape(-1, cache.head_dim)
        shape = (*both_BK2H.shape[:3], cache.dtype.row_bytes(cache.head_dim))
        packed = both_BK2H.view(np.uint8)
        self._pack: Callable[[], object] | None = None
        if cache.dtype is not FLOAT32:
            packed = np.empty(shape, np.uint8)
            codec = cache.dtype.row_codec(len(rows), cache.head_dim)
            self._pack = partial(codec.pack, rows, packed.reshape(len(rows), -1))
        self._k, self._v = both_BK2H[:, :, 0], both_BK2H[:, :, 1]
        self._packed_KB = _whole_positions(packed).T
        self._cached = _whole_positions(cache.rows)
        self._n_users = self._packed_KB.shape[1]
        self._key: tuple[int, int] = self._cached.shape
        self._cached = self._cached.reshape(-1, copy=False)

    def write(self, k_BKH: F32, v_BKH: F32) -> None:
        """Write; a user at position -1 is skipped."""
        np.copyto(self._k, k_BKH)
        np.copyto(self._v, v_BKH)
        if self._pack is not None:
            self._pack()
        table, packed = self._inputs.table, self._packed_KB
        assert table is not None
        places = table.places[self._key]
        if places.shape[1] < self._n_users:
            packed = packed[:, table.active]
        # np.put is four times as fast as indexed assignment.
        self._cached.put(places, packed)


def _whole_positions(rows: Bytes) -> NDArray[np.void]:
    """Return a view of packed rows (K, ..., 2, row bytes) whose items are keys with values."""
    items: NDArray[np.void] = rows.reshape(len(rows), -1, rows.shape[-2] * rows.shape[-1]).view(
        np.dtype((np.void, rows.shape[-2] * rows.shape[-1]))
    )[..., 0]
    return items
