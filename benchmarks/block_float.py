"""How fast the codecs pack, unpack and round on one core: compiled against numpy, in turns.

    python benchmarks/block_float.py

Sizes from an activation of a small model to a weight shard of Llama-70B; the best of many passes
of each codec, taken in turns, with arrays and codecs that exist before. ``ns`` is nanoseconds a
value; ``x`` is numpy's time over the compiled one's. A numpy copy of the same array is there to
judge the machine by. Without the compiled codec there are numpy's times only.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from galaxy_mpi.blas import one_thread_per_rank

one_thread_per_rank()

import numpy as np  # noqa: E402

from galaxy_mpi.dtypes import BFloat16, BlockFloat  # noqa: E402
from galaxy_mpi.dtypes.choice import Codecs  # noqa: E402
from galaxy_mpi.dtypes.compiled_codec import CompiledCodecs, NotBuiltError  # noqa: E402
from galaxy_mpi.dtypes.numpy_codec import NumpyCodecs  # noqa: E402

SHAPES = ((32, 96), (32, 1024), (32, 8192), (2048, 3584))
MEMBERS = 4
OPERATIONS = ("pack", "unpack", "round", "unpack_pairs", "add_terms", "pack_sum")

BARS = (
    ("unpack", (2048, 3584), 4, 8),
    ("pack", (2048, 3584), 5, 10),
    ("unpack", (32, 96), 8, 15),
    ("pack", (32, 96), 8, 15),
)
"""Operation on bfloat8_b, shape, and how many times as fast as numpy it must and should be."""


def best_s(works: list[Callable[[], object]], passes: int) -> list[float]:
    """Return the shortest time of each, taken in turns, in seconds."""
    best = [float("inf")] * len(works)
    for _ in range(passes):
        for i, work in enumerate(works):
            began = time.perf_counter()
            work()
            best[i] = min(best[i], time.perf_counter() - began)
    return best


def bound(codecs: Codecs, name: str, shape: tuple[int, int]) -> dict[str, Callable[[], object]]:
    """Return the operations of one codec on arrays of its own."""
    bits = {"bfloat8_b": 7, "bfloat4_b": 3}
    dtype = BlockFloat(name, bits[name], codecs) if name in bits else BFloat16(codecs)
    values = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    out, pairs = np.empty_like(values), np.empty((shape[0] // 2, shape[1]), np.uint32)
    codec = dtype.codec(shape)
    table = np.tile(dtype.pack(values), (MEMBERS, 1))
    packed = table[0].copy()
    return {
        "pack": lambda: codec.pack(values, packed),
        "unpack": lambda: codec.unpack(table[0], out),
        "round": lambda: codec.round(values, out),
        "unpack_pairs": lambda: codec.unpack_pairs(table[0], pairs),
        "add_terms": lambda: codec.add_terms(table, out),
        "pack_sum": lambda: codec.pack_sum(table, packed),
    }


def main() -> None:
    codecs: list[Codecs] = [NumpyCodecs()]
    try:
        codecs.append(CompiledCodecs())
    except NotBuiltError as error:
        print(f"the compiled codec cannot be used: {error}")
    ratios: dict[tuple[str, tuple[int, int]], float] = {}
    for shape in SHAPES:
        n_values = shape[0] * shape[1]
        passes = max(9, min(2000, 40_000_000 // n_values))
        values = np.ones(shape, np.float32)
        out = np.empty_like(values)
        copy_s = best_s([lambda out=out, values=values: np.copyto(out, values)], passes)[0]
        print(f"\n{n_values:,} values; a copy takes {copy_s / n_values * 1e9:.3f} ns a value")
        print(f"{'':<12}{'':<13}" + "".join(f"{c.name + ' ns':>12}" for c in codecs) + "       x")
        for name in ("bfloat8_b", "bfloat4_b", "bfloat16"):
            operations = [bound(c, name, shape) for c in codecs]
            for operation in OPERATIONS:
                times = best_s([each[operation] for each in operations], passes)
                line = "".join(f"{t / n_values * 1e9:>12.3f}" for t in times)
                if len(times) == 2:
                    line += f"{times[0] / times[1]:>8.1f}"
                    if name == "bfloat8_b":
                        ratios[operation, shape] = times[0] / times[1]
                print(f"{name:<12}{operation:<13}{line}")
    print(f"\nadd_terms and pack_sum: {MEMBERS} terms")
    for operation, shape, bar, aim in BARS:
        if (operation, shape) in ratios:
            print(
                f"bfloat8_b {operation} of {shape[0] * shape[1]:,} values: compiled "
                f"{ratios[operation, shape]:.1f} x as fast (bar {bar}, aim {aim})"
            )


if __name__ == "__main__":
    main()
