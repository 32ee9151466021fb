"""The places of a decode batch, with the cache blocks of the requests that hold them.

A request takes a place if its column can reserve all blocks that it may need. It takes them one by
one as it grows, and frees its place and blocks when it leaves.
"""

import math

import numpy as np

from galaxy_mpi.arrays import Ints
from galaxy_mpi.engine.block_pool import BlockPool
from galaxy_mpi.engine.request import CacheLimits, Request
from galaxy_mpi.kernels import ROW_BLOCK
from galaxy_mpi.systems import PageTable

__all__ = ["Places"]


class Places:
    """Places and cache blocks of all columns.

    Parameters
    ----------
    n_places : int
        Users of a decode batch, a multiple of ``n_columns``.
    n_columns : int
        Columns of the mesh: place p belongs to column ``p // (n_places // n_columns)``.
    limits : CacheLimits

    Attributes
    ----------
    pools : list of BlockPool
        By column.
    promised : list of int
        Blocks that are reserved, by column; as many as those who hold a place may need.
    """

    def __init__(self, n_places: int, n_columns: int, limits: CacheLimits) -> None:
        self._limits, self._each = limits, n_places // n_columns
        self._free = set(range(n_places))
        self.pools = [BlockPool(limits.n_blocks) for _ in range(n_columns)]
        self.promised = [0] * n_columns
        self._tables = np.full((n_places, limits.blocks_for(limits.n_positions)), -1, np.int64)

    @property
    def n_free(self) -> int:
        """Number of free places."""
        return len(self._free)

    def column(self, place: int) -> int:
        """Return the column whose chips hold the cache of ``place``."""
        return place // self._each

    def page_table(self, column: int, positions_B: Ints) -> PageTable:
        """Return the page table of a column.

        Parameters
        ----------
        column : int
        positions_B : ndarray of shape (places,), int64
            Of all columns; -1 for an empty place.
        """
        mine = slice(column * self._each, (column + 1) * self._each)
        longest = self._limits.blocks_for(int(positions_B[mine].max()) + 1)
        return PageTable(
            positions_B[mine].copy(), self._tables[mine, :longest], self._limits.page_size
        )

    def take(self, request: Request) -> bool:
        """Give a request a place and the blocks of its prompt; return whether it fits.

        Of the columns that have room, it takes the one that knows most of its prompt.
        """
        need = self._need(request)
        best: tuple[int, list[int]] | None = None
        first_places: dict[int, int] = {}
        for place in sorted(self._free):
            first_places.setdefault(self.column(place), place)
        for column, place in first_places.items():
            if self.promised[column] + need > self._limits.n_blocks:
                continue
            blocks = self._known_prefix(request, column)
            if best is None or len(blocks) > len(best[1]):
                best = place, blocks
        if best is None:
            return False
        request.place, request.blocks = best
        column = self.column(request.place)
        self.pools[column].share(request.blocks)
        request.n_cached = len(request.blocks) * self._limits.page_size
        self.promised[column] += need
        self._free.remove(request.place)
        self._tables[request.place, : len(request.blocks)] = request.blocks
        self.grow(request, len(request.prompt))
        return True

    def grow(self, request: Request, n_positions: int) -> None:
        """Allocate blocks for so many positions; they were reserved."""
        pool = self.pools[self.column(request.place)]
        while len(request.blocks) < self._limits.blocks_for(n_positions):
            block = pool.allocate()
            self._tables[request.place, len(request.blocks)] = block
            request.blocks.append(block)

    def remember_prompt(self, request: Request) -> None:
        """Remember the content of the prompt's full blocks, once it is prefilled."""
        pool = self.pools[self.column(request.place)]
        for block, key in zip(request.blocks, request.keys, strict=False):
            pool.remember(block, key)

    def leave(self, request: Request) -> None:
        """Free a request's place and blocks."""
        place, column = request.place, self.column(request.place)
        self.pools[column].release(request.blocks)
        self.promised[column] -= self._need(request)
        self._free.add(place)
        self._tables[place] = -1
        request.place, request.blocks = -1, []

    def _known_prefix(self, request: Request, column: int) -> list[int]:
        """Return cached blocks of the prompt's prefix: multiples of 128 tokens, never all of it."""
        page = self._limits.page_size
        unit = math.lcm(page, ROW_BLOCK)
        blocks = self.pools[column].find(request.keys)
        usable = min(len(blocks) * page, len(request.prompt) - 1) // unit * unit
        return blocks[: usable // page]

    def _need(self, request: Request) -> int:
        """Return how many blocks a request may need at most."""
        n_positions = len(request.prompt) + request.max_new_tokens - 1
        return self._limits.blocks_for(min(n_positions, self._limits.n_positions))
