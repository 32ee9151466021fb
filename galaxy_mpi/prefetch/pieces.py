"""Large weights in pieces: each is unpacked and multiplied while it is in the cache.

An unpacked weight of a large model does not fit in a cache: written as values and read again it
costs as much as its product, and every rank needs room for it. A piece of some rows needs neither::

    packed weight (K, N)       piece 0 | piece 1 | ...          read once, packed
    x (M, K)                   out  = x[:, 0] @ piece 0
                               out += x[:, 1] @ piece 1 ...     in float32

There is no thread that unpacks ahead: with as many ranks as here on a core, another rank always has
something to do.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Protocol

from galaxy_mpi.arrays import F32, Array, Call
from galaxy_mpi.dtypes import TILE, Factors, PackedTensor, padded

if TYPE_CHECKING:
    from galaxy_mpi.systems.chip import ChipBinder

__all__ = ["Piece", "Product", "piece_rows", "pieces_of"]


class Product(Protocol):
    """Multiplies matrices whose values are those of bfloat16; see `galaxy_mpi.kernels.multiply`."""

    @property
    def name(self) -> str:
        """Name in reports."""

    @property
    def needs_term(self) -> bool:
        """Whether adding needs scratch."""

    @property
    def factors(self) -> Factors:
        """How ``x`` and ``w`` lie in memory."""

    def bind(self, x: Array, w: Array, out: F32, term: F32, *, adds: bool) -> list[Call]:
        """Return calls that write ``x @ w`` to ``out``, or add it.

        ``term`` is scratch like ``out``, if `needs_term`.
        """

    def ready(self) -> AbstractContextManager[None]:
        """Return what such calls are run in."""


class Piece(NamedTuple):
    """Some rows of a weight."""

    rows: slice
    values: Array
    """Where they are unpacked to, as a product reads them; all pieces share it."""
    unpack: Callable[[], None]

    @property
    def height(self) -> int:
        """Number of rows."""
        n_rows: int = self.rows.stop - self.rows.start
        return n_rows


def piece_rows(shape: tuple[int, ...], n_values: int) -> int:
    """Return the rows of a piece of up to ``n_values`` of a weight: whole tiles, pieces alike.

    Examples
    --------
    >>> shapes = (2048, 3584), (64, 128_256), (64, 3584)
    >>> [piece_rows(shape, 2**19) for shape in shapes]
    [128, 32, 64]
    >>> piece_rows((2048, 3584), 2**20)  # 288 would leave a last piece of 32
    256
    """
    rows, width = shape
    most = max(TILE, n_values // width // TILE * TILE)
    n_pieces = -(-rows // most)
    return min(rows, padded(-(-rows // n_pieces), TILE))


def pieces_of(
    chip: "ChipBinder", tensor: PackedTensor, factors: Factors, n_values: int
) -> Iterator[Piece]:
    """Yield the pieces of a weight, of about ``n_values`` each."""
    n_rows, width = tensor.shape
    step = piece_rows(tensor.shape, n_values)
    at = 0
    for top in range(0, n_rows, step):
        rows = slice(top, min(top + step, n_rows))
        height = rows.stop - top
        codec = chip.codec(tensor.dtype, (height, width))
        values = factors.weight(chip.workspace, height, width)
        packed = tensor.data[at : at + codec.n_bytes]
        at += codec.n_bytes
        yield Piece(rows, values, partial(factors.unpack(codec), packed, values))
