"""Layers of Llama-70B at full size on 32 ranks: time of a decode step and peak memory.

    python benchmarks/full_size.py [--codec compiled,numpy] [--turns N] [--folder DIR]
    python benchmarks/full_size.py --layers 80 --codec compiled --folder DIR

Random weights, 32 users, one short prompt each. A step of two layers and one of a single layer tell
what a layer takes; the rest of a step is the language-model head and sampling. The codecs take
turns. Weights are packed and written once, to a folder that is removed at the end, and mapped from
there; with ``--layers`` a step of so many is measured alone. Memory is that of all ranks, what
they share counted once (PSS); mapped weights are told apart, because the system may drop them.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from pathlib import Path

PROMPTS = [chr(ord("a") + n % 26) for n in range(32)]
RANKS = 32


def memory_of(pid: int) -> tuple[int, int]:
    """Return the bytes of a process's own and shared memory, and of the files it has mapped."""
    rows = dict(
        line.split()[:2] for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    )
    files = int(rows["Pss_File:"])
    return (int(rows["Pss:"]) - files) * 1024, files * 1024


def children(pid: int) -> list[int]:
    """Return the processes below a process."""
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, path.read_text().split()):
            found += [child, *children(child)]
    return found


class Watcher:
    """Samples the memory of all processes below one, every second."""

    def __init__(self, pid: int) -> None:
        self.own = self.with_files = 0
        self._pid, self._done = pid, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def stop(self) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(1):
            total = [0, 0]
            try:
                for pid in children(self._pid):
                    for n, part in enumerate(memory_of(pid)):
                        total[n] += part
            except (OSError, KeyError):  # one has just ended
                continue
            self.own = max(self.own, total[0])
            self.with_files = max(self.with_files, sum(total))


def run(n_layers: int, codec: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Return the figures of a run."""
    folder = Path(arguments.folder)
    prompts, out = folder / "prompts.txt", folder / "out.json"
    prompts.write_text("\n".join(PROMPTS) + "\n")
    command = [str(Path(sys.executable).with_name("mpirun")), "-n", str(RANKS), sys.executable]
    command += ["-m", "galaxy_mpi.decode", "--model", "llama3-70b", "--layers", str(n_layers)]
    command += ["--max-new-tokens", str(arguments.tokens), "--quiet", "--weights-cache"]
    command += [str(folder / "weights"), "--json", str(out)]
    if not arguments.default_prompts:
        command += ["--prompts-file", str(prompts)]
    environ = {**os.environ, "GALAXY_MPI_CODEC": codec}
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environ) as process:
        watcher = Watcher(process.pid)
        try:
            if process.wait(arguments.timeout):
                sys.exit(f"{' '.join(command)} ended with {process.returncode}")
        finally:
            process.terminate()
            watcher.stop()
    host = json.loads(out.read_text())["host"]
    return {
        "step": host["decode_step_s"],
        "prefill": host["prefill_s"],
        "own": watcher.own / 2**30,
        "all": watcher.with_files / 2**30,
        "whole": time.perf_counter() - began,
    }


def say_memory(found: dict[str, float], n_layers: int, codec: str) -> None:
    print(
        f"{codec}: peak memory of all ranks, {n_layers} layers: {found['all']:.1f} GiB, of which "
        f"{found['own']:.1f} GiB at most are no mapped weights",
        flush=True,
    )


def many(arguments: argparse.Namespace) -> None:
    """Measure a step of so many layers."""
    for codec in arguments.codec.split(","):
        found = run(arguments.layers, codec, arguments)
        print(
            f"{codec}: a step of {arguments.layers} layers: {found['step']:.2f} s; prefill of "
            f"{RANKS} prompts: {found['prefill']:.2f} s; the command: {found['whole']:.0f} s"
        )
        say_memory(found, arguments.layers, codec)


def pair(arguments: argparse.Namespace) -> None:
    """Measure a layer and the rest of a step, with each codec in turns."""
    codecs = arguments.codec.split(",")
    layer, rest = defaultdict(list), defaultdict(list)
    last: dict[str, dict[str, float]] = {}
    for _ in range(arguments.turns):
        for codec in codecs:
            one, two = (run(n, codec, arguments) for n in (1, 2))
            print(
                f"{codec}: a step of 1 layer and the head: {one['step']:.2f} s; of 2 layers: ",
                end="",
            )
            print(f"{two['step']:.2f} s", flush=True)
            layer[codec].append(two["step"] - one["step"])
            rest[codec].append(2 * one["step"] - two["step"])
            last[codec] = two
    found = {c: (statistics.median(layer[c]), statistics.median(rest[c])) for c in codecs}
    for codec in codecs:
        each, others = found[codec]
        print(f"{codec}: a layer: {each:.2f} s; the rest: {others:.2f} s")
        say_memory(last[codec], 2, codec)
    if {"compiled", "numpy"} <= set(codecs):
        (a, b), (c, d) = found["compiled"], found["numpy"]
        print(f"compiled relative to numpy: a layer {a / c:.2f}; the rest {b / d:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--codec", default="compiled,numpy", help="which, in turns")
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--layers", type=int, help="measure a step of so many instead")
    parser.add_argument("--tokens", type=int, default=5, help="decode steps of a run")
    parser.add_argument("--default-prompts", action="store_true", help="in place of single letters")
    parser.add_argument("--folder", help="for weights, on a disk; a temporary one by default")
    parser.add_argument("--timeout", type=float, default=1200, help="seconds of one run")
    arguments = parser.parse_args()
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        arguments.folder = name
        (many if arguments.layers else pair)(arguments)
    print(f"({time.perf_counter() - began:.0f} s in all)")


if __name__ == "__main__":
    main()
