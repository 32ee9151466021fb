"""One run of the decode command, measured from outside; used by the other benchmarks."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

__all__ = ["Run", "decode"]


@dataclass(frozen=True)
class Run:
    """What a run printed, and how long it took."""

    report: dict[str, Any]
    whole_s: float
    """From command to exit, on this computer's clock."""
    peak_bytes: int
    """Proportional set size of all ranks together, sampled; 0 if it was not watched."""

    @property
    def host(self) -> dict[str, Any]:
        return self.report["host"]


def decode(
    mesh: str, arguments: Sequence[str], *, chips_per_rank: int = 1, watch_memory: bool = False
) -> Run:
    """Run ``galaxy_mpi.decode`` on ``mesh``; memory is sampled every half second if watched."""
    rows, cols = map(int, mesh.split("x"))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "out.json"
        command = [str(Path(sys.executable).parent / "mpirun"), "-n",
                   str(rows * cols // chips_per_rank), sys.executable, "-m", "galaxy_mpi.decode",
                   "--mesh", mesh, "--chips-per-rank", str(chips_per_rank), "--quiet",
                   "--json", str(path), *arguments]  # fmt: skip
        began, peak = time.perf_counter(), 0
        job = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        while job.poll() is None:
            if watch_memory:
                peak = max(peak, _proportional_set_bytes(job.pid))
            time.sleep(0.5 if watch_memory else 0.02)
            if time.perf_counter() - began > 1200:
                job.terminate()
                sys.exit(f"no end within 1200 s: {' '.join(command)}")
        whole_s = time.perf_counter() - began
        if job.returncode:
            sys.exit(f"exit code {job.returncode}: {' '.join(command)}")
        return Run(json.loads(path.read_text()), whole_s, peak)


def _proportional_set_bytes(pid: int) -> int:
    total = 0
    for process in psutil.Process(pid).children(recursive=True):
        try:
            total += process.memory_full_info().pss
        except psutil.Error:  # it has just ended
            continue
    return total
