"""Prefill: products of the rows of many prompts at once, each row with the bits it has alone.

By definition, rows are multiplied in tiles of 32 of their own prompt (parts of
`ProductRows.blocks`), so that the bits of a prompt do not depend on the prompts beside it. Tiles
are small, and many of their rows are padding. A row gets the same bits in a product of any height
if the BLAS adds in the same order. No BLAS promises that, but most do. So it is tested once for
each shape of matrices, and if the bits are the same, the rows that hold tokens are packed and
multiplied together::

    x        | prompt 0: 40 rows, 24 of padding | prompt 1: 7 rows, 25 of padding | ...
    packed   | 40 rows | 7 rows | ...                       256 rows a product
    out      the same places as in x; zeros for padding
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from galaxy_mpi.arrays import F32, Array
from galaxy_mpi.dtypes import TILE, PackedTensor, padded
from galaxy_mpi.prefetch.pieces import Product, pieces_of

if TYPE_CHECKING:
    from galaxy_mpi.systems.chip import ChipBinder

__all__ = ["ProductRows", "PromptProduct", "spread"]

PACKED_ROWS = 256
"""Maximum rows of a product of packed rows. Twice as many gain nothing."""

PIECE_VALUES = 2**20
"""Values of a piece of a weight: the rows of a long product are read again for each."""


class ProductRows(NamedTuple):
    """Which rows of a product are needed, and with which bits."""

    blocks: tuple[slice, ...]
    """Adjacent rows of one prompt that may be multiplied together."""
    used: Callable[[], Sequence[slice]]
    """Returns, when the product runs, the rows that are needed, in ascending order."""


class _Block(NamedTuple):
    """Rows of one product."""

    start: int
    """Its first row in the result."""
    height: int
    copies: tuple[tuple[slice, slice], ...]
    """Rows of the block, and rows of the input that they are copied from."""


def packed_blocks(used: Iterable[slice], most: int = PACKED_ROWS) -> Iterator[_Block]:
    """Yield blocks of the rows in use, one after another, each of whole tiles.

    Examples
    --------
    >>> [(b.start, b.height, len(b.copies)) for b in packed_blocks([slice(0, 40), slice(64, 320)])]
    [(0, 256, 2), (256, 64, 1)]
    """
    start = n_rows = 0
    copies: list[tuple[slice, slice]] = []
    for rows in used:
        at = rows.start
        while at < rows.stop:
            height = min(rows.stop - at, most - n_rows)
            copies.append((slice(n_rows, n_rows + height), slice(at, at + height)))
            at, n_rows = at + height, n_rows + height
            if n_rows == most:
                yield _Block(start, most, tuple(copies))
                start, n_rows, copies = start + most, 0, []
    if n_rows:
        yield _Block(start, padded(n_rows, TILE), tuple(copies))


def spread(values: F32, used: Sequence[slice]) -> None:
    """Move packed rows to where they belong, in place, and write zeros between them.

    Examples
    --------
    >>> values = np.array([[1], [2], [3], [9], [9]], np.float32)
    >>> spread(values, [slice(0, 1), slice(2, 4)])
    >>> values.ravel().tolist()
    [1.0, 0.0, 2.0, 3.0, 0.0]
    """
    stop, end = sum(rows.stop - rows.start for rows in used), len(values)
    for rows in reversed(used):
        # From the last on: a row moves to a place after its own.
        values[rows.stop : end] = 0
        start, end = stop - (rows.stop - rows.start), rows.start
        if start < rows.start:
            values[rows] = values[start:stop].copy()
        stop = start
    values[:end] = 0


class PromptProduct:
    """A product of prompts' rows by a large weight, bound to its arrays.

    Parameters
    ----------
    product : Product
    chip : ChipBinder
    tensor : PackedTensor
        The weight, (K, N).
    x : ndarray of shape (M, K)
        Values of bfloat16.
    out : ndarray of shape (M, N)
        If ``packs``, whole tiles for as many rows as are needed.
    rows : ProductRows
        Of ``x``.
    packs : bool
        Whether results stay packed, in place of those of all rows.
    known : dict
        What has been tried out; products of one weight stream share it.
    """

    def __init__(
        self,
        product: Product,
        chip: "ChipBinder",
        tensor: PackedTensor,
        x: F32,
        out: F32,
        rows: ProductRows,
        *,
        packs: bool,
        known: dict[object, bytes | None],
    ) -> None:
        self._product, self._x, self._out = product, product.factors.read(x), out
        self._rows, self._packs, self._known = rows, packs, known
        self._workspace = chip.workspace
        self._pieces = list(pieces_of(chip, tensor, product.factors, PIECE_VALUES))
        self._tiles = [
            _own_block(slice(start, min(start + TILE, block.stop)))
            for block in rows.blocks
            for start in range(block.start, block.stop, TILE)
        ]
        self._own_heights = {tile.height for tile in self._tiles}
        depth = max(piece.height for piece in self._pieces)
        self._read = product.factors.rows(chip.workspace, PACKED_ROWS, depth)
        self._term = (
            chip.workspace.values("term of a product", PACKED_ROWS, out.shape[1])
            if product.needs_term
            else out[:0]
        )

    def __call__(self) -> None:
        """Multiply."""
        used = self._rows.used()
        blocks = list(packed_blocks(used))
        with self._product.ready():
            if self._has_same_bits({block.height for block in blocks}):
                self._multiply(blocks, self._out)
            else:
                self._multiply_own(used)
        if not self._packs:
            spread(self._out, used)

    def _multiply_own(self, used: Iterable[slice]) -> None:
        """Multiply in the tiles that define the bits, then keep what is needed, packed."""
        whole = self._workspace.values("all rows", len(self._x), self._out.shape[1])
        self._multiply(self._tiles, whole)
        start = 0
        for rows in used:
            stop = start + rows.stop - rows.start
            self._out[start:stop] = whole[rows]
            start = stop

    def _multiply(self, blocks: Sequence[_Block], out: F32) -> None:
        for piece in self._pieces:
            piece.unpack()
            x = self._x[:, piece.rows]
            for start, height, copies in blocks:
                read = self._read[:height, : piece.height]
                n_rows = 0
                for to, source in copies:
                    read[to], n_rows = x[source], to.stop
                read[n_rows:] = 0
                self._add(read, piece.values, out[start : start + height], piece.rows.start > 0)

    def _add(self, x: Array, w: Array, out: F32, adds: bool) -> None:
        for call, arguments in self._product.bind(x, w, out, self._term[: len(x)], adds=adds):
            call(*arguments)

    def _has_same_bits(self, heights: set[int]) -> bool:
        """Return whether products of these heights give a row the bits that its own tile does."""
        heights = self._own_heights | heights
        for depth in {piece.height for piece in self._pieces} if len(heights) > 1 else ():
            strides = self._read.strides, self._out.strides
            keys = [(depth, height, self._out.shape[1], strides) for height in heights]
            if not all(key in self._known for key in keys):
                for key, height in zip(keys, heights, strict=True):
                    self._known[key] = self._bits_of_a_row(depth, height)
            found = {self._known[key] for key in keys}
            if len(found) > 1 or None in found:
                return False
        return True

    def _bits_of_a_row(self, depth: int, height: int) -> bytes | None:
        """Return the bits of a row in a product of ``height`` equal rows; None if rows differ.

        Random values, because zeros and small integers have the same sum in any order.
        """
        read, out = self._read[:height, :depth], self._out[:height]
        w = next(piece.values for piece in self._pieces if piece.height == depth)
        random = np.random.default_rng(0)
        factors = self._product.factors
        read[:] = factors.read(random.random((1, depth), np.float32) - np.float32(0.5))
        # Rows that repeat are as good, and quicker to make.
        some = factors.words(random.random((TILE, w.shape[1]), np.float32))
        for top in range(0, len(w), len(some)):
            w[top : top + len(some)] = some[: len(w) - top]
        for adds in (False, True):
            self._add(read, w, out, adds)
        return out[0].tobytes() if (out == out[0]).all() else None


def _own_block(rows: slice) -> _Block:
    height = rows.stop - rows.start
    return _Block(rows.start, height, ((slice(0, height), rows),))
