"""Block floats in tiles, in numpy, bound to a shape.

Packed, a tile is 64 exponents and then the data of its 64 blocks, so consecutive tiles of a tile
row are a matrix (tiles, tile_bytes). Work goes patch by patch: some whole tile rows, or a part of
one, small enough that all passes over it stay in the L2 cache.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from galaxy_mpi.arrays import F32, Bytes
from galaxy_mpi.dtypes.block_codec import Blocks, BlockScratch, BlockTables
from galaxy_mpi.dtypes.matrix import as_pairs, as_rows, write_pairs
from galaxy_mpi.dtypes.tile import FACE, TILE, padded, run_order

__all__ = ["PATCH_BLOCKS", "TiledBlocks"]

RUNS = TILE * TILE // FACE
"""Blocks of a tile."""

PATCH_BLOCKS = 2048
"""Blocks handled at once: 128 KiB of float32."""


class _Patch(Blocks):
    """A rectangle of a matrix and its tiles; patches of equal shape share one object."""

    def __init__(self, scratch: BlockScratch, height: int, width: int) -> None:
        runs = padded(width, FACE) // FACE
        super().__init__(scratch, height, runs)
        self.shape = height, width
        self.is_whole = width == runs * FACE
        rows, columns = padded(height), padded(width)
        n_tiles = rows * columns // (TILE * TILE)
        tile, run = run_order(rows, columns)
        place = (tile * RUNS + run).reshape(rows, columns // FACE)[:height, :runs].reshape(-1)
        self._place = place.astype(np.intp)
        n = height * runs
        # Padding comes from behind the last block, where a block of zeros is kept.
        self._source = np.full(n_tiles * RUNS, n, np.intp)
        self._source[place] = np.arange(n)
        self._exponents_and_zero = scratch.exponents[: n + 1]
        self._items_and_zero = scratch.items[: n + 1]
        self._tile_exponents = scratch.tile_exponents[: n_tiles * RUNS]
        self._tile_items = scratch.tile_items[: n_tiles * RUNS]
        self._exponent_bytes = self._tile_exponents.reshape(n_tiles, RUNS)
        self._data_bytes = self._tile_items.view(np.uint8).reshape(n_tiles, -1)
        self._grid = height, runs, FACE

    def take_in(self, values: F32) -> None:
        """Quantise values of the patch's shape."""
        if self.is_whole:
            self.quantise(values.reshape(self._grid))
            return
        wide = self.wide.reshape(self.shape[0], -1)
        wide[:, self.shape[1] :] = 0
        np.copyto(wide[:, : self.shape[1]], values)
        self.quantise(self.wide)

    def give_rounded(self, out: F32) -> None:
        """Write what was quantised, as values of the patch's shape."""
        if self.is_whole:
            self.rounded(out.reshape(self._grid))
        else:
            self.rounded(self.wide)
            np.copyto(out, self.wide.reshape(self.shape[0], -1)[:, : self.shape[1]])

    def give_tiles(self, out: Bytes) -> None:
        """Encode what was quantised into ``out`` (tiles, tile_bytes)."""
        self.encode()
        self._exponents_and_zero[-1] = 0
        self._items_and_zero[-1] = 0
        self._exponents_and_zero.take(self._source, None, self._tile_exponents, "clip")
        self._items_and_zero.take(self._source, None, self._tile_items, "clip")
        np.copyto(out[:, :RUNS], self._exponent_bytes)
        np.copyto(out[:, RUNS:], self._data_bytes)

    def take_tiles(self, packed: Bytes) -> None:
        """Fetch exponents and data from ``packed`` (tiles, tile_bytes)."""
        np.copyto(self._exponent_bytes, packed[:, :RUNS])
        np.copyto(self._data_bytes, packed[:, RUNS:])
        self._tile_exponents.take(self._place, None, self.exponents, "clip")
        self._tile_items.take(self._place, None, self.items, "clip")

    def give_values(self, out: F32) -> None:
        """Decode what was fetched."""
        if self.is_whole:
            self.decode(out.reshape(self._grid))
        else:
            np.copyto(out, self.decode().reshape(self.shape[0], -1)[:, : self.shape[1]])

    def add_values(self, out: F32) -> None:
        """Decode what was fetched and add it to ``out``."""
        term = self.decode().reshape(self.shape[0], -1)[:, : self.shape[1]]
        np.add(out, term, out)


class TiledBlocks:
    """The `Codec` of a block float, in numpy.

    Parameters
    ----------
    rows, width : int
        Ragged edges are padded with zeros in the tiles.
    tables : BlockTables
        Those of the format.
    """

    def __init__(self, rows: int, width: int, tables: BlockTables) -> None:
        self._shape = rows, width
        self._tile_bytes = RUNS * (1 + tables.block_bytes)
        tile_columns = padded(width) // TILE
        n_tiles = padded(rows) // TILE * tile_columns
        self.n_bytes = n_tiles * self._tile_bytes
        n_blocks = min(PATCH_BLOCKS, n_tiles * RUNS)
        scratch = BlockScratch(tables, n_blocks, n_blocks)
        patch_tiles = PATCH_BLOCKS // RUNS
        patch_columns = min(tile_columns, patch_tiles)
        patch_rows = max(patch_tiles // max(tile_columns, 1), 1)
        self._patches: list[tuple[_Patch, slice, slice, slice]] = []
        """Each with its rows, columns and tiles."""
        made: dict[tuple[int, int], _Patch] = {}
        for top in range(0, rows if width else 0, patch_rows * TILE):
            for left in range(0, width, patch_columns * TILE):
                down = slice(top, min(top + patch_rows * TILE, rows))
                across = slice(left, min(left + patch_columns * TILE, width))
                patch_shape = down.stop - top, across.stop - left
                if patch_shape not in made:
                    made[patch_shape] = _Patch(scratch, *patch_shape)
                first = top // TILE * tile_columns + left // TILE
                n_tiles = padded(patch_shape[0]) * padded(patch_shape[1]) // TILE**2
                tiles = slice(first, first + n_tiles)
                self._patches.append((made[patch_shape], down, across, tiles))

    def pack(self, values: F32, out: Bytes) -> None:
        """Round and pack."""
        matrix, tiles = as_rows(values, *self._shape), self._tiles(out)
        for patch, rows, columns, which in self._patches:
            patch.take_in(matrix[rows, columns])
            patch.give_tiles(tiles[which])

    def unpack(self, packed: Bytes, out: F32) -> None:
        """Write the values of ``packed`` to ``out``."""
        tiles = self._tiles(packed)
        matrix = as_rows(out, *self._shape)
        for patch, rows, columns, which in self._patches:
            patch.take_tiles(tiles[which])
            patch.give_values(matrix[rows, columns])

    def unpack_pairs(self, packed: Bytes, out: NDArray[np.uint32]) -> None:
        """Write the values of ``packed`` to ``out`` as bfloat16, two rows in one, exactly."""
        tiles = self._tiles(packed)
        pairs = as_pairs(out, *self._shape)
        for patch, rows, columns, which in self._patches:
            patch.take_tiles(tiles[which])
            values = patch.decode().reshape(patch.shape[0], -1)
            halves = values.view(np.uint16)[:, 1 : 2 * patch.shape[1] : 2]
            write_pairs(halves, pairs[rows.start // 2 : -(-rows.stop // 2), columns])

    def round(self, values: F32, out: F32) -> None:
        """Write the nearest values of the format to ``out``."""
        matrix = as_rows(values, *self._shape)
        rounded = as_rows(out, *self._shape)
        for patch, rows, columns, _ in self._patches:
            patch.take_in(matrix[rows, columns])
            patch.give_rounded(rounded[rows, columns])

    def add_terms(self, blocks: Bytes, out: F32) -> None:
        """Write the sum of the terms in ``blocks`` to ``out``."""
        members = [self._tiles(row) for row in blocks[:, : self.n_bytes]]
        matrix = as_rows(out, *self._shape)
        for patch, rows, columns, which in self._patches:
            self._sum(patch, (tiles[which] for tiles in members), matrix[rows, columns])

    def pack_sum(self, blocks: Bytes, out: Bytes, values: F32 | None = None) -> None:
        """Round and pack the sum of the terms in ``blocks``."""
        members = [self._tiles(row) for row in blocks[:, : self.n_bytes]]
        packed = self._tiles(out)
        if values is None:
            self._pack_sum(members, packed, None)
            return
        matrix = as_rows(values, *self._shape)
        self._pack_sum(members, packed, matrix)

    def _pack_sum(self, members: list[Bytes], packed: Bytes, matrix: F32 | None) -> None:
        for patch, rows, columns, which in self._patches:
            total = patch.wide.reshape(patch.shape[0], -1)[:, : patch.shape[1]]
            self._sum(patch, (tiles[which] for tiles in members), total)
            patch.take_in(total)
            patch.give_tiles(packed[which])
            if matrix is not None:
                patch.give_rounded(matrix[rows, columns])

    @staticmethod
    def _sum(patch: _Patch, members: Iterator[Bytes], out: F32) -> None:
        patch.take_tiles(next(members))
        patch.give_values(out)
        for tiles in members:
            patch.take_tiles(tiles)
            patch.add_values(out)

    def _tiles(self, packed: Bytes) -> Bytes:
        """Return packed bytes as a matrix (tiles, tile_bytes)."""
        if packed.shape != (self.n_bytes,):
            raise ValueError(f"got {packed.shape} packed bytes, {self._shape} has {self.n_bytes}")
        return packed.reshape(-1, self._tile_bytes, copy=False)
