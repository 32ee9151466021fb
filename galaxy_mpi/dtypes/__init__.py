"""Number formats of the chip: float32, bfloat16, bfloat8_b and bfloat4_b.

A format rounds values (``round``), and packs them to the bytes that the chip would hold in DRAM
or send over a link (``pack``, ``unpack``). ``codec`` and ``row_codec`` bind these to a shape, for
callers that run them many times into arrays of their own. Nothing here knows what a tensor is for.
"""

from galaxy_mpi.dtypes.block_float import BlockFloat
from galaxy_mpi.dtypes.choice import codec_name
from galaxy_mpi.dtypes.codec import Codec, RowCodec
from galaxy_mpi.dtypes.dtype import BF16, BFP4, BFP8, DTYPES, FLOAT32, DType
from galaxy_mpi.dtypes.factors import Bfloat16Factors, Factors, Float32Factors
from galaxy_mpi.dtypes.packed import PackedTensor
from galaxy_mpi.dtypes.plain_float import BFloat16, Float32
from galaxy_mpi.dtypes.tile import FACE, TILE, padded

__all__ = [
    "BF16",
    "BFP4",
    "BFP8",
    "DTYPES",
    "FACE",
    "FLOAT32",
    "TILE",
    "BFloat16",
    "Bfloat16Factors",
    "BlockFloat",
    "Codec",
    "DType",
    "Factors",
    "Float32",
    "Float32Factors",
    "PackedTensor",
    "RowCodec",
    "codec_name",
    "padded",
]
