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
    np.minimum(out, np.float32(88.0), out=out)  # exp would overflow, which changes nothing
    np.exp(out, out=out)
    out += np.float32(1)
    np.divide(gate, out, out=out)
    out *= up
    return out
