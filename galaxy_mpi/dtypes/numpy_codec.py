"""The codecs in numpy: always there, and what the compiled ones are measured by."""

from ml_dtypes import bfloat16

from galaxy_mpi.dtypes.block_codec import BlockTables
from galaxy_mpi.dtypes.block_rows import BlockRows
from galaxy_mpi.dtypes.block_tiles import TiledBlocks
from galaxy_mpi.dtypes.codec import Codec, RowCodec
from galaxy_mpi.dtypes.plain_codec import PlainCodec, PlainRows

__all__ = ["NumpyCodecs"]


class NumpyCodecs:
    """Makes codecs that call numpy."""

    name = "numpy"

    def __init__(self) -> None:
        self._tables = {bits: BlockTables(bits) for bits in (7, 3)}

    def blocks(self, magnitude_bits: int, rows: int, width: int) -> Codec:
        """Return the codec of a block float in tiles."""
        return TiledBlocks(rows, width, self._tables[magnitude_bits])

    def block_rows(self, magnitude_bits: int, rows: int, width: int) -> RowCodec:
        """Return the codec of a block float row by row."""
        return BlockRows(rows, width, self._tables[magnitude_bits])

    def bfloat16(self, rows: int, width: int) -> Codec:
        """Return the codec of bfloat16."""
        return PlainCodec(rows, width, bfloat16)

    def bfloat16_rows(self, rows: int, width: int) -> RowCodec:
        """Return the codec of bfloat16 row by row."""
        return PlainRows(rows, width, bfloat16)
