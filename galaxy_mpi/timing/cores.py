"""How many cores an op uses, by the rules of the original.

References
----------
.. [1] tt-metal, models/tt_transformers/tt/model_config.py, ``find_grid``, ``find_grid_k_n``.
"""

from functools import cache
from math import gcd

from galaxy_mpi.dtypes import TILE, padded

__all__ = ["fused_norm_cores", "multicast_blocks", "norm_cores", "ring_sizes", "whole_hidden"]

_WANTED, _MOST, _MOST_FUSED = 32, 64, 16

_BANKS = 12

_FEWEST_CORES, _PADDED_CORES = 8, 16


@cache
def norm_cores(width: int) -> int:
    """Return the cores of a norm: the divisor of the width in tiles that is closest to 32.

    Examples
    --------
    >>> norm_cores(4096), norm_cores(3072), norm_cores(3584), norm_cores(576)
    (32, 32, 28, 18)
    """
    tiles = padded(width) // TILE
    divisors = [n for n in range(1, min(tiles, _MOST) + 1) if tiles % n == 0]
    return min(divisors, key=lambda n: (abs(n - _WANTED), n))


@cache
def fused_norm_cores(width: int) -> int:
    """Return the cores of the Galaxy's norm, with equally many tiles each.

    Examples
    --------
    >>> fused_norm_cores(2048), fused_norm_cores(1280)
    (16, 10)
    """
    tiles = padded(width) // TILE
    return max(n for n in range(1, _MOST_FUSED + 1) if tiles % n == 0)


@cache
def multicast_blocks(k: int, n: int) -> int:
    """Return the cores that hold the activation of a matmul, one block each.

    It is the largest common divisor of both dims in tiles, at most 64.

    Examples
    --------
    >>> multicast_blocks(2048, 8192), multicast_blocks(3072, 8192), multicast_blocks(4096, 1792)
    (64, 32, 8)
    """
    common = gcd(padded(k) // TILE, padded(n) // TILE)
    return max(n for n in range(1, min(common, _MOST) + 1) if common % n == 0)


@cache
def ring_sizes(most: int) -> tuple[int, ...]:
    """Return the possible ring sizes: equally many cores for each of 12 DRAM banks.

    Examples
    --------
    >>> ring_sizes(24), ring_sizes(28), ring_sizes(5)
    ((12, 24), (12, 24), (1, 2, 3, 4, 5))
    """
    if most < _BANKS:
        return tuple(range(1, most + 1))
    return tuple(range(_BANKS, most + 1, _BANKS))


@cache
def whole_hidden(dim: int, hidden: int) -> int:
    """Return a chip's feed-forward width as the generic system pads it.

    If dim and width share few divisors, it is padded to whole tiles on each of 16 cores
    (``default_padded_cores``, ``PAD_MLP_CORES``).

    Examples
    --------
    >>> whole_hidden(8192, 29568 // 8), whole_hidden(5120, 27648 // 8), whole_hidden(4096, 1792)
    (4096, 3584, 1792)
    """
    if multicast_blocks(dim, hidden) >= min(_FEWEST_CORES, padded(dim) // TILE):
        return hidden
    return padded(hidden, _PADDED_CORES * TILE)
