"""The interface of a number format, and the four instances there are."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from galaxy_mpi.dtypes.block_float import BlockFloat
from galaxy_mpi.dtypes.codec import Codec, RowCodec
from galaxy_mpi.dtypes.plain_float import BFloat16, Float32

__all__ = ["BF16", "BFP4", "BFP8", "DTYPES", "FLOAT32", "DType"]


class DType(Protocol):
    """A number format: how values are rounded, and which bytes they become."""

    @property
    def name(self) -> str:
        """The vendor's name of the format."""

    @property
    def explicit_bits(self) -> int:
        """Mantissa bits that a value may have after its leading one."""

    @property
    def tile_bytes(self) -> int:
        """Bytes of a packed 32x32 tile."""

    def round(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the nearest values of this format, as float32."""

    def packed_bytes(self, shape: tuple[int, ...]) -> int:
        """Return how many bytes `pack` makes of an array of ``shape``."""

    def pack(self, values: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Round and pack; the result has ``packed_bytes(values.shape)`` bytes."""

    def unpack(
        self,
        packed: NDArray[np.uint8],
        shape: tuple[int, ...],
        out: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32]:
        """Return the packed values as float32, in ``out`` if given."""

    def codec(self, shape: tuple[int, ...]) -> Codec:
        """Return what packs and unpacks arrays of ``shape``; it belongs to one thread."""

    def row_codec(self, rows: int, width: int) -> RowCodec:
        """Return what packs ``rows`` rows, each by itself; it belongs to one thread."""

    def row_bytes(self, width: int) -> int:
        """Return the bytes of one row of ``width`` values packed by itself."""

    def pack_rows(self, values: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Round and pack each row by itself: shape (..., W) to (..., row_bytes(W))."""

    def unpack_rows(self, packed: NDArray[np.uint8], width: int) -> NDArray[np.float32]:
        """Undo `pack_rows`."""


FLOAT32: DType = Float32()
BF16: DType = BFloat16()
BFP8: DType = BlockFloat("bfloat8_b", 7)
BFP4: DType = BlockFloat("bfloat4_b", 3)

DTYPES: dict[str, DType] = {d.name: d for d in (FLOAT32, BF16, BFP8, BFP4)}
