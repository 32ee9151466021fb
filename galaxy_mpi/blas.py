"""One BLAS thread per rank. Imports nothing, because it must run before numpy is imported."""

import os

__all__ = ["one_thread_per_rank"]


def one_thread_per_rank() -> None:
    """Limit BLAS to one thread, unless the user set another number.

    The libraries read the environment when numpy loads them; with a pool of threads in each of 32
    ranks a decode step takes many times as long.
    """
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")
