"""The activation of the feed-forward network."""

import numpy as np

from galaxy_mpi.arrays import F32

__all__ = ["silu_mul"]


def silu_mul(gate: F32, up: F32) -> F32:
    """Return ``gate * sigmoid(gate) * up``, a new array of the same shape.

    Examples
    --------
    >>> silu_mul(np.array([0.0, -1e9], np.float32), np.array([3.0, 1.0], np.float32))
    array([ 0., -0.], dtype=float32)
    """
    out = np.negative(gate)
    with np.errstate(over="ignore"):  # a very negative gate divided by infinity is 0, as it should
        np.exp(out, out=out)
    out += np.float32(1)
    np.divide(gate, out, out=out)
    out *= up
    return out
