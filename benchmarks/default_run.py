"""Time and memory of the default run, and what its options change, in one go.

    python benchmarks/default_run.py [--runs N] [--mesh RxC]

The variants take turns, so that a machine whose speed drifts treats them alike; each figure is
the median, with the smallest and the largest behind it.
"""

from __future__ import annotations

import argparse
import statistics

from decode_run import decode

VARIANTS = {
    "default": [],
    "--no-prefetch": ["--no-prefetch"],
    "--transport mpi": ["--transport", "mpi"],
    "--collectives ring": ["--collectives", "ring"],
    "--precision float32": ["--precision", "float32"],
    "two ranks": [],
}


def figures(mesh: str, arguments: list[str], chips_per_rank: int) -> dict[str, float]:
    """Return the figures of one run, from command to exit."""
    run = decode(mesh, arguments, chips_per_rank=chips_per_rank)
    host = run.host
    return {
        "command to exit (s)": run.whole_s,
        "command to first token (s)": run.whole_s - host["decode_step_s"] * host["steps"],
        "prefill (s)": host["prefill_s"],
        "step (ms)": host["decode_step_s"] * 1e3,
        "step per layer (ms)": host["decode_layer_s"] * 1e3,
        "collectives (ms/step)": host["collectives_s"] * 1e3,
        "prefetch stall (ms/step)": host["prefetch_stall_s"] * 1e3,
        "memory, all ranks (GiB, PSS)": host["process_memory_bytes"] / 2**30,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--mesh", default="8x4")
    arguments = parser.parse_args()
    rows, cols = map(int, arguments.mesh.split("x"))
    half = max(1, rows * cols // 2)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in VARIANTS}
    for _ in range(arguments.runs):
        for name, extra in VARIANTS.items():
            chips = half if name == "two ranks" else 1
            found[name].append(figures(arguments.mesh, extra, chips))
    print(f"mesh {arguments.mesh}, median of {arguments.runs} (smallest, largest)")
    for name, runs in found.items():
        print(f"\n{name}")
        for figure in runs[0]:
            values = [r[figure] for r in runs]
            median = statistics.median(values)
            print(f"  {figure:<30}{median:>9.2f}  ({min(values):.2f}, {max(values):.2f})")


if __name__ == "__main__":
    main()
