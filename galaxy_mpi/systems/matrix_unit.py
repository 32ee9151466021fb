"""Multiplies as a chip does: by the fidelity that each op has."""

from galaxy_mpi.arrays import F32
from galaxy_mpi.kernels import Multiply
from galaxy_mpi.systems.precision import Precision

__all__ = ["MatrixUnit"]


class MatrixUnit:
    """Matrix products of one chip in one mode.

    Parameters
    ----------
    multiply : Multiply
    precision : Precision
        Of the layer that is computed.
    mode : str
        ``decode`` or ``prefill``.
    """

    def __init__(self, multiply: Multiply, precision: Precision, mode: str) -> None:
        self._multiply, self._precision, self._mode = multiply, precision, mode

    def of(self, precision: Precision) -> "MatrixUnit":
        """Return the unit for a layer of another precision."""
        return MatrixUnit(self._multiply, precision, self._mode)

    def __call__(self, x: F32, w: F32, name: str) -> F32:
        """Return ``x @ w``, not rounded, where ``w`` is the weight ``name``."""
        precision = self._precision
        if precision.cuts_inputs:
            fidelity = precision.fidelity(name, self._mode)
            x = fidelity.activation(x)
            if not fidelity.reads_whole(precision.weight(name)):
                w = fidelity.weight(w)
        return self._multiply(x, w)

    def attended(self, q: F32, k: F32, v: F32) -> tuple[F32, F32, F32]:
        """Return queries, keys and values as attention reads them."""
        precision = self._precision
        if not precision.cuts_inputs:
            return q, k, v
        fidelity = precision.fidelity("sdpa", self._mode)
        if not fidelity.reads_whole(precision.kv_cache):
            k, v = fidelity.weight(k), fidelity.weight(v)
        return fidelity.activation(q), k, v
