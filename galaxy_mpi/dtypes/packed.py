"""A tensor as the chip holds it: packed bytes, with the shape and format to read them."""

import math
from typing import NamedTuple

from galaxy_mpi.arrays import F32, Bytes
from galaxy_mpi.dtypes.dtype import DType

__all__ = ["PackedTensor"]


class PackedTensor(NamedTuple):
    """Packed values of one tensor.

    Examples
    --------
    >>> import numpy as np
    >>> from galaxy_mpi.dtypes import BFP8
    >>> tensor = PackedTensor.of(np.ones((64, 96), np.float32), BFP8)
    >>> tensor.data.nbytes, tensor.unpacked_bytes, bool((tensor.unpack() == 1).all())
    (6528, 24576, True)
    """

    data: Bytes
    shape: tuple[int, ...]
    dtype: DType

    @classmethod
    def of(cls, values: F32, dtype: DType) -> "PackedTensor":
        """Round and pack ``values``."""
        return cls(dtype.pack(values), values.shape, dtype)

    @property
    def n_values(self) -> int:
        """Number of values, without padding."""
        return math.prod(self.shape)

    @property
    def unpacked_bytes(self) -> int:
        """Bytes of the values as float32."""
        return 4 * self.n_values

    def unpack(self, out: F32 | None = None) -> F32:
        """Return the values, in ``out`` (of ``shape``, contiguous) if given."""
        return self.dtype.unpack(self.data, self.shape, out)
