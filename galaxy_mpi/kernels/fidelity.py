"""Math fidelity: how many bits of its inputs the matrix unit of a chip uses.

A multiplier uses 5 x 7 bits per pass; more passes use more bits. Unused bits are truncated.

References
----------
.. [1] tt-isa-documentation, WormholeB0, TensixTile/TensixCoprocessor, MVMUL and fidelity phases.
"""

from enum import Enum

import numpy as np

from galaxy_mpi.arrays import F32
from galaxy_mpi.dtypes import DType

__all__ = ["Fidelity"]

_F32_BITS = 23


class Fidelity(Enum):
    """Explicit mantissa bits used of (weight, activation)."""

    LOFI = (4, 6)
    HIFI2 = (_F32_BITS, 6)
    HIFI4 = (_F32_BITS, _F32_BITS)

    def reads_whole(self, dtype: DType) -> bool:
        """Return whether all bits of a weight of this format are used."""
        return dtype.explicit_bits <= self.value[0]

    def reads_activation(self, dtype: DType) -> bool:
        """Return whether all bits of an activation of this format are used."""
        return dtype.explicit_bits <= self.value[1]

    @property
    def weight_mask(self) -> np.uint32 | None:
        """Bits of a float32 weight that are used; None: all."""
        return _mask(self.value[0])

    @property
    def activation_mask(self) -> np.uint32 | None:
        """Bits of a float32 activation that are used; None: all."""
        return _mask(self.value[1])

    def weight(self, values: F32) -> F32:
        """Return weights truncated to the used bits."""
        return _cut(values, self.value[0])

    def activation(self, values: F32) -> F32:
        """Return activations truncated to the used bits.

        Examples
        --------
        >>> Fidelity.HIFI2.activation(np.array([1 + 2**-6, 1 + 2**-7], np.float32))
        array([1.015625, 1.      ], dtype=float32)
        """
        return _cut(values, self.value[1])


def _mask(bits: int) -> np.uint32 | None:
    return None if bits == _F32_BITS else np.uint32(0xFFFFFFFF << (_F32_BITS - bits) & 0xFFFFFFFF)


def _cut(values: F32, bits: int) -> F32:
    mask = _mask(bits)
    if mask is None:
        return values
    cut: F32 = (np.ascontiguousarray(values).view(np.uint32) & mask).view(np.float32)
    return cut
