"""bfloat8_b and bfloat4_b: 16 values share an 8-bit exponent.

A value is a sign bit and W magnitude bits (7 or 3) whose leading one is explicit; the largest of
the 16 sets the exponent E, and one unit is ``2**(E - 127 - (W - 1))``. Packed, a 32x32 tile is 64
exponent bytes followed by 1024 values of 8 or 4 bits (the low nibble first): 1088 or 576 bytes.

`galaxy_mpi.dtypes.block_codec` has the rounding, `galaxy_mpi.dtypes.block_tiles` and
`galaxy_mpi.dtypes.block_rows` the order of the bytes.

References
----------
.. [1] tt-metal, tt_metal/impl/data_format/{blockfloat_common,bfloat8,bfloat4}.cpp.
"""

from galaxy_mpi.dtypes.bound import Bound
from galaxy_mpi.dtypes.choice import Codecs
from galaxy_mpi.dtypes.codec import Codec, RowCodec
from galaxy_mpi.dtypes.matrix import matrix_shape
from galaxy_mpi.dtypes.tile import FACE, TILE, padded

__all__ = ["BlockFloat"]


class BlockFloat(Bound):
    """A block float with a sign and ``magnitude_bits`` bits per value.

    Parameters
    ----------
    name : str
        The vendor's name, ``bfloat8_b`` or ``bfloat4_b``.
    magnitude_bits : int
        7 or 3, the leading one included.
    codecs : Codecs, optional
        Where codecs come from; by default what the environment chooses.

    Examples
    --------
    >>> import numpy as np
    >>> bfp8 = BlockFloat("bfloat8_b", 7)
    >>> bfp8.round(np.array([[1.0, 0.51, 1 / 128, 3 / 256]], np.float32))
    array([[1.      , 0.515625, 0.      , 0.015625]], dtype=float32)
    >>> bfp8.packed_bytes((32, 2048))
    69632
    """

    def __init__(self, name: str, magnitude_bits: int, codecs: Codecs | None = None) -> None:
        super().__init__(codecs)
        self.name = name
        self.magnitude_bits = magnitude_bits
        self.datum_bits = magnitude_bits + 1
        self.explicit_bits = self.datum_bits - 2  # without the sign and the first one bit
        self.tile_bytes = TILE * TILE // FACE + TILE * TILE * self.datum_bits // 8

    def codec(self, shape: tuple[int, ...]) -> Codec:
        """Return what packs and unpacks arrays of ``shape``; it belongs to one thread."""
        return self.codecs.blocks(self.magnitude_bits, *matrix_shape(shape))

    def row_codec(self, rows: int, width: int) -> RowCodec:
        """Return what packs ``rows`` rows, each by itself; it belongs to one thread."""
        return self.codecs.block_rows(self.magnitude_bits, rows, width)

    def packed_bytes(self, shape: tuple[int, ...]) -> int:
        """Return how many bytes `pack` makes of an array of ``shape``."""
        rows, columns = matrix_shape(shape)
        return padded(rows) // TILE * (padded(columns) // TILE) * self.tile_bytes

    def row_bytes(self, width: int) -> int:
        """Return the bytes of one row of ``width`` values packed by itself."""
        return padded(width, FACE) // FACE * (1 + FACE * self.datum_bits // 8)
