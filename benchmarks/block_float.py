"""How fast block floats are packed and unpacked on one core.

    python benchmarks/block_float.py

Prints millions of values per second, the best of several passes over a 70B-sized weight shard,
and the time of a numpy copy of the same array, to judge the machine by.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from galaxy_mpi.blas import one_thread_per_rank

one_thread_per_rank()

import numpy as np  # noqa: E402

from galaxy_mpi.dtypes import BF16, BFP4, BFP8  # noqa: E402


def best_s(work: Callable[[], object], passes: int = 7) -> float:
    """Return the shortest of several passes, in seconds."""
    times = []
    for _ in range(passes):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)


def main() -> None:
    values = np.random.default_rng(0).standard_normal((2048, 3584)).astype(np.float32)
    out = np.empty_like(values)
    million = values.size / 1e6
    print(f"{values.shape[0]} x {values.shape[1]} values, one core")
    print(f"{'format':<12}{'pack':>10}{'unpack':>10}{'round':>10}   (million values/s)")
    for dtype in (BFP8, BFP4, BF16):
        packed = dtype.pack(values)
        rates = [
            million / best_s(work)
            for work in (
                lambda dtype=dtype: dtype.pack(values),
                lambda dtype=dtype, packed=packed: dtype.unpack(packed, values.shape, out),
                lambda dtype=dtype: dtype.round(values),
            )
        ]
        print(f"{dtype.name:<12}" + "".join(f"{rate:>10.0f}" for rate in rates))
    print(f"{'copy':<12}{million / best_s(lambda: np.copyto(out, values)):>10.0f}")


if __name__ == "__main__":
    main()
