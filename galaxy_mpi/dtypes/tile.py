"""The place of a value inside packed 32x32 tiles.

A tile is 4 faces of 16x16 in the order top-left, top-right, bottom-left, bottom-right, row-major
inside a face; the tiles of a matrix follow each other in row-major order::

    matrix (R, C)                      one tile
    +------+------+                    +--------+--------+
    | t 0  | t 1  |                    | face 0 | face 1 |
    +------+------+                    +--------+--------+
    | t 2  | t 3  |                    | face 2 | face 3 |
    +------+------+                    +--------+--------+

Values move in *runs*: the 16 values of one face row, which share an exponent. A run is one array
item of 16 or 8 bytes (its exponent one byte), so that tiling is one indexed copy of items.

References
----------
.. [1] tt-metal, tt_metal/impl/data_format/blockfloat_common.cpp.
"""

from functools import lru_cache

import numpy as np

from galaxy_mpi.arrays import Ints

__all__ = ["FACE", "TILE", "padded", "run_order"]

TILE = 32
"""Rows and columns of a tile."""

FACE = 16
"""Rows and columns of a face; also the number of values that share an exponent."""


def padded(size: int, multiple: int = TILE) -> int:
    """Return ``size`` rounded up to a multiple of ``multiple``."""
    return -(-size // multiple) * multiple


@lru_cache(maxsize=256)
def run_order(rows: int, columns: int) -> tuple[Ints, Ints]:
    """Return, for the runs of a matrix in row-major order, where they lie among its tiles.

    Parameters
    ----------
    rows, columns : int
        Multiples of 32.

    Returns
    -------
    tile, run : ndarray of shape (rows * columns / 16,)
        Number of the tile, and of the run among the 64 of the tile.

    Examples
    --------
    >>> tile, run = run_order(32, 64)
    >>> tile[:5].tolist(), run[:5].tolist()
    ([0, 0, 1, 1, 0], [0, 16, 0, 16, 1])
    """
    row, column = np.divmod(np.arange(rows * columns // FACE), columns // FACE)
    tile = row // TILE * (columns // TILE) + column // 2
    run = row % TILE // FACE * 2 * FACE + column % 2 * FACE + row % FACE
    return tile, run
