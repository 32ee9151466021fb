"""Block floats row by row, in numpy: the exponents of a row and then its data, bound to a shape.

A chip keeps rows of a cache in tiles; the bytes are the same, their order is not.
"""

import numpy as np

from galaxy_mpi.arrays import F32, Bytes
from galaxy_mpi.dtypes.block_codec import Blocks, BlockScratch, BlockTables
from galaxy_mpi.dtypes.block_tiles import PATCH_BLOCKS
from galaxy_mpi.dtypes.matrix import as_rows
from galaxy_mpi.dtypes.tile import FACE, padded

__all__ = ["BlockRows"]


class BlockRows:
    """The `RowCodec` of a block float, in numpy.

    Parameters
    ----------
    rows, width : int
        A ragged width is padded with zeros in its last block.
    tables : BlockTables
        Those of the format.
    """

    def __init__(self, rows: int, width: int, tables: BlockTables) -> None:
        self._shape = rows, width
        self._runs = padded(width, FACE) // FACE
        self.row_bytes = self._runs * (1 + tables.block_bytes)
        step = max(PATCH_BLOCKS // max(self._runs, 1), 1)
        scratch = BlockScratch(tables, min(step, rows) * self._runs)
        self._parts: list[tuple[Blocks, slice]] = []
        made: dict[int, Blocks] = {}
        for top in range(0, rows if width else 0, step):
            n = min(step, rows - top)
            if n not in made:
                made[n] = Blocks(scratch, n, self._runs)
            self._parts.append((made[n], slice(top, top + n)))

    def pack(self, values: F32, out: Bytes) -> None:
        """Round and pack each row into a row of ``out``."""
        matrix, width = as_rows(values, *self._shape), self._shape[1]
        self._check(out)
        for part, rows in self._parts:
            wide = part.wide.reshape(len(part.wide), -1)
            wide[:, width:] = 0
            np.copyto(wide[:, :width], matrix[rows])
            part.quantise(part.wide)
            part.encode()
            out[rows, : self._runs] = part.exponents.reshape(-1, self._runs)
            out[rows, self._runs :] = part.data.reshape(len(wide), -1)

    def unpack(self, packed: Bytes, out: F32) -> None:
        """Write the values of each row of ``packed`` to a row of ``out``."""
        self._check(packed)
        matrix = as_rows(out, *self._shape)
        for part, rows in self._parts:
            np.copyto(matrix[rows], self._decoded(part, packed[rows]))

    def _decoded(self, part: Blocks, packed: Bytes) -> F32:
        """Return a view of scratch."""
        np.copyto(part.exponents.reshape(-1, self._runs), packed[:, : self._runs])
        np.copyto(part.data.reshape(len(packed), -1), packed[:, self._runs :])
        return part.decode().reshape(len(packed), -1)[:, : self._shape[1]]

    def _check(self, packed: Bytes) -> None:
        wanted = self._shape[0], self.row_bytes
        if packed.shape != wanted:
            raise ValueError(f"got packed rows of shape {packed.shape}, wanted {wanted}")
