"""Multiplies as a chip does: by the fidelity that each weight's op has."""

from galaxy_mpi.arrays import F32
from galaxy_mpi.kernels import Multiply
from galaxy_mpi.systems.precision import Precision

__all__ = ["MatrixUnit"]


class MatrixUnit:
    """Matrix products of one chip.

    Parameters
    ----------
    multiply : Multiply
    precision : Precision
    """

    def __init__(self, multiply: Multiply, precision: Precision) -> None:
        self._multiply, self._precision = multiply, precision

    def __call__(self, x: F32, w: F32, name: str) -> F32:
        """Return ``x @ w``, not rounded, where ``w`` is the weight ``name``."""
        precision = self._precision
        if precision.cuts_inputs:
            fidelity = precision.fidelity(name)
            x = fidelity.activation(x)
            if not fidelity.reads_whole(precision.weight(name)):
                w = fidelity.weight(w)
        return self._multiply(x, w)
