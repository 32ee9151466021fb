"""The decode command as users start it, for the tests beside it."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

MPIRUN = Path(sys.executable).parent / "mpirun"
ROOT = Path(__file__).parents[2]
LIMIT_S = 600


def run(ranks: int, *arguments: str, cwd: Path | None = None, **environ: str):
    """Run the bare command with only what activation sets in the environment."""
    env = {
        "PATH": f"{MPIRUN.parent}:{os.environ['PATH']}",
        "HOME": os.environ.get("HOME", "/"),
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        **environ,
    }
    return subprocess.run(
        ["mpirun", "-n", str(ranks), "python", "-m", "galaxy_mpi.decode", *arguments],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


def tokens_and_rest(path: Path) -> dict:
    """Return everything in a JSON report that must be reproducible."""
    found = json.loads(path.read_text())
    del found["host"]
    return found


def still_running() -> list[str]:
    """Return the command lines of decode ranks that are alive."""
    alive = []
    for status in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = status.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"galaxy_mpi.decode" in words and b"python" in words[0]:
            alive.append(b" ".join(words).decode())
    return alive


def nobody_is_left() -> bool:
    """Return whether all ranks are gone, within the 20 s that they are given."""
    deadline = time.monotonic() + 20
    while still_running() and time.monotonic() < deadline:
        time.sleep(0.2)
    return not still_running()


def refused(result, said: str) -> None:
    """Assert one line from rank 0, a non-zero exit, and nobody left."""
    assert result.returncode != 0
    lines = [line for line in result.stderr.splitlines() if line.startswith("galaxy_mpi: ")]
    assert len(lines) == 1, result.stderr
    assert said in lines[0]
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    assert nobody_is_left()
