"""How long prompts of growing length take to prefill, against decode steps, and their memory.

    python benchmarks/prefill.py [--runs N] [--mesh RxC] [--lengths 32,128,...]

Each length is a run of the decode command with one prompt of the demo model. ``x decode`` is by
how much the pass is faster than as many decode steps, at the mean step of the same run (16 steps
behind the prompt). Lengths take turns; times are medians over the runs, memory the largest
proportional set size of all ranks together, without the cache blocks that were in use.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

from decode_run import Run, decode

from galaxy_mpi.checkpoints import default_prompts, locate
from galaxy_mpi.checkpoints.tokenizer import TextTokenizer

LENGTHS = (32, 128, 512, 1024, 2048, 4096, 8100)
N_STEPS = 16


def prompt_of(n_tokens: int) -> str:
    """Return text of about so many tokens."""
    tokenizer = TextTokenizer.of_folder(locate("demo"))
    text = " ".join(default_prompts() * (n_tokens // 300 + 1))
    return tokenizer.decode(tokenizer.encode(text, 1)[: n_tokens - 1]).strip()


def memory_bytes(run: Run, mesh: str) -> int:
    """Return the peak of all ranks without the cache: one column holds the user's blocks."""
    rows = int(mesh.split("x")[0])
    return run.peak_bytes - rows * run.report["memory"]["kv_cache_bytes_per_rank"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--mesh", default="8x4")
    parser.add_argument("--lengths", default=",".join(map(str, LENGTHS)))
    arguments = parser.parse_args()
    lengths = [int(length) for length in arguments.lengths.split(",")]
    runs: dict[int, list[Run]] = {length: [] for length in lengths}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(arguments.runs):
            for length in lengths:
                path = Path(folder) / "prompt.txt"
                path.write_text(prompt_of(length) + "\n", "utf-8")
                options = ["--prompts-file", str(path), "--max-new-tokens", str(N_STEPS + 1)]
                runs[length].append(decode(arguments.mesh, options, watch_memory=True))
    print(f"mesh {arguments.mesh}, one prompt, median of {arguments.runs}")
    print(f"{'tokens':>7}{'prefill s':>11}{'ms/token':>10}{'step ms':>9}{'x decode':>10}{'MiB':>7}")
    for length in lengths:
        (n_tokens,) = runs[length][0].report["prompt_tokens"]
        prefill_s = statistics.median(run.host["prefill_s"] for run in runs[length])
        step_s = statistics.median(run.host["decode_step_s"] for run in runs[length])
        peak = max(memory_bytes(run, arguments.mesh) for run in runs[length])
        print(
            f"{n_tokens:>7}{prefill_s:>11.2f}{prefill_s / n_tokens * 1e3:>10.2f}"
            f"{step_s * 1e3:>9.0f}{step_s * n_tokens / prefill_s:>10.0f}{peak / 2**20:>7.0f}"
        )


if __name__ == "__main__":
    main()
