"""A decode step of users with long contexts against one of users with short ones.

    python benchmarks/long_context.py [--runs N] [--mesh RxC] [--tokens 100,8000]

Each length is a run of the decode command with four prompts of the demo model. Lengths take turns;
times are medians over the runs.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

from decode_run import decode
from prefill import prompt_of

N_USERS = 4
N_STEPS = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--mesh", default="2x2")
    parser.add_argument("--tokens", default="100,8000", help="lengths of prompts")
    parser.add_argument("--chips-per-rank", type=int, default=1)
    arguments = parser.parse_args()
    lengths = [int(length) for length in arguments.tokens.split(",")]
    steps: dict[int, list[float]] = {length: [] for length in lengths}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(arguments.runs):
            for length in lengths:
                path = Path(folder) / "prompts.txt"
                path.write_text((prompt_of(length) + "\n") * N_USERS, "utf-8")
                options = ["--prompts-file", str(path), "--max-new-tokens", str(N_STEPS + 1)]
                run = decode(arguments.mesh, options, chips_per_rank=arguments.chips_per_rank)
                steps[length].append(run.host["decode_step_s"])
    print(f"demo, mesh {arguments.mesh}, {N_USERS} users, median of {arguments.runs}")
    print(f"{'tokens':>7}{'step ms':>9}{'/ first':>9}")
    first_s = statistics.median(steps[lengths[0]])
    for length in lengths:
        step_s = statistics.median(steps[length])
        print(f"{length:>7}{step_s * 1e3:>9.1f}{step_s / first_s:>9.2f}")


if __name__ == "__main__":
    main()
