"""One BLAS thread a rank. Imports nothing, because it must come before numpy."""

import os

__all__ = ["one_thread_per_rank"]


def one_thread_per_rank() -> None:
    """Keep BLAS to one thread, unless the user says otherwise.

    The libraries read the environment when numpy loads them; with a pool of threads in each of 32
    ranks a decode step takes many times as long.
    """
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")
