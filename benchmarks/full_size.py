"""Layers of Llama-70B at full size on 32 ranks: time of a decode step and peak memory.

    python benchmarks/full_size.py

Random weights, 32 users, one short prompt each. A step of two layers and one of a single layer tell
what a layer takes; the rest of a step is the language-model head and sampling.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

PROMPTS = [chr(ord("a") + n % 26) for n in range(32)]


def available_bytes() -> int:
    """Return what the system has left."""
    text = Path("/proc/meminfo").read_text()
    return next(
        int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("MemAvailable")
    )


def run(n_layers: int, folder: Path) -> tuple[float, float]:
    """Return the seconds of a decode step and the peak bytes of a run."""
    prompts, out = folder / "prompts.txt", folder / "out.json"
    prompts.write_text("\n".join(PROMPTS) + "\n")
    before, least, done = available_bytes(), [available_bytes()], threading.Event()

    def watch() -> None:
        while not done.wait(0.5):
            least[0] = min(least[0], available_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    command = [str(Path(sys.executable).with_name("mpirun")), "-n", "32", sys.executable]
    command += ["-m", "galaxy_mpi.decode", "--model", "llama3-70b", "--layers", str(n_layers)]
    command += ["--prompts-file", str(prompts), "--max-new-tokens", "5", "--quiet"]
    try:
        subprocess.run(
            [*command, "--json", str(out)],
            check=True,
            stdout=subprocess.DEVNULL,
            env=os.environ,
            timeout=1200,
        )
    finally:
        done.set()
        watcher.join()
    step_s = json.loads(out.read_text())["host"]["decode_step_s"]
    return step_s, before - least[0]


def main() -> None:
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        one_s, _ = run(1, Path(name))
        two_s, peak = run(2, Path(name))
    print(f"a step of 1 layer and the head: {one_s:.2f} s; of 2 layers: {two_s:.2f} s")
    print(f"a layer: {two_s - one_s:.2f} s; the rest: {2 * one_s - two_s:.2f} s")
    print(f"peak memory of all ranks, 2 layers: {peak / 2**30:.1f} GiB")
    print(f"({time.perf_counter() - began:.0f} s in all)")


if __name__ == "__main__":
    main()
