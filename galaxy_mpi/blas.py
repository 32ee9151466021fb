"""The BLAS behind numpy: one thread per rank, and for which processor its kernels are.

Imports nothing at the top, because the threads must be set before numpy is imported.
"""

import os

__all__ = ["blas_kernels", "one_thread_per_rank"]


def one_thread_per_rank() -> None:
    """Limit BLAS to one thread, unless the user set another number.

    The libraries read the environment when numpy loads them; with a pool of threads in each of 32
    ranks a decode step takes many times as long.
    """
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")


def blas_kernels() -> str:
    """Return for which processor numpy's products are written, as ``OpenBLAS Haswell``.

    Kernels of another processor may round the last bits differently. OpenBLAS takes those of this
    one, unless the environment variable ``OPENBLAS_CORETYPE`` names another. ``unknown`` if numpy
    has another library.
    """
    import ctypes

    import numpy as np

    linked = ctypes.CDLL(np.linalg._umath_linalg.__file__)  # looks also in what it depends on
    for name in ("scipy_openblas_get_corename64_", "openblas_get_corename"):
        if hasattr(linked, name):
            ask = getattr(linked, name)
            ask.restype = ctypes.c_char_p
            return f"OpenBLAS {ask().decode()}"
    return "unknown"
