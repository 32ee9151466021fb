"""The decode command as users start it, for the tests beside it."""

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterable
from pathlib import Path

import pytest

MPIRUN = Path(sys.executable).parent / "mpirun"
ROOT = Path(__file__).parents[2]
LIMIT_S = 600


MARK = f"GALAXY_MPI_TEST_RUN={uuid.uuid4().hex}"
"""In the environment of all that these tests start: others may run the same commands beside."""


def environment(**more: str) -> dict[str, str]:
    """Return only what activation sets, the mark of these tests, and ``more``."""
    name, value = MARK.split("=")
    return {
        "PATH": f"{MPIRUN.parent}:{os.environ['PATH']}",
        "HOME": os.environ.get("HOME", "/"),
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        name: value,
        **more,
    }


def command(ranks: int, *arguments: str) -> list[str]:
    """Return the bare command."""
    return ["mpirun", "-n", str(ranks), "python", "-m", "galaxy_mpi.decode", *arguments]


def faulty(ranks: int, fault: str, rank: int, *arguments: str) -> list[str]:
    """Return the command with a fault in the second decode step of a rank."""
    words = command(ranks, *arguments)
    place = words.index("galaxy_mpi.decode")
    words[place : place + 1] = ["galaxy_mpi.faults.rank", fault, "step", str(rank)]
    return words


def script(*words: str, **environ: str):
    """Run a script of launch/; the test is skipped where it says that something is missing (77)."""
    done = play(["sh", str(ROOT / "launch" / words[0]), *words[1:]], **environ)
    if done.returncode == 77:
        pytest.skip(done.stderr.strip())
    return done


def run(ranks: int, *arguments: str, cwd: Path | None = None, **environ: str):
    """Run the bare command with only what activation sets in the environment."""
    return play(command(ranks, *arguments), cwd, **environ)


def play(words: list[str], cwd: Path | None = None, **environ: str):
    """Run a command with only what activation sets in the environment."""
    return subprocess.run(
        words,
        cwd=cwd,
        env=environment(**environ),
        capture_output=True,
        text=True,
        errors="replace",
        timeout=LIMIT_S,
        check=False,
    )


def texts_of(stdout: str) -> str:
    """Return the prompts and their continuations: not what was run, and no figures."""
    return stdout[stdout.index("[user ") :].split("user  prompt tokens")[0]


def tokens_and_rest(path: Path) -> dict:
    """Return everything in a JSON report that must be reproducible."""
    found = json.loads(path.read_text())
    del found["host"], found["run"]
    return found


def still_running(*, watching: bool = False) -> list[int]:
    """Return the ranks of these tests' own runs that are alive: not mpirun, not a shell.

    With ``watching``, also processes that ranks have started to watch the run.
    """
    alive = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")  # of a zombie: nothing
            is_own = MARK.encode() in (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        watches = any(word.endswith((b"/lingering.py", b"/stopped.py")) for word in words)
        if watches and not watching:
            continue
        if is_own and b"python" in words[0] and int(folder.name) != os.getpid():
            alive.append(int(folder.name))
    return sorted(alive)


def shared_files(ranks: Iterable[int]) -> set[str]:
    """Return the files in folders for temporary and shared ones that processes have mapped.

    Not those of the project and its environment, which may lie in such a folder.
    """
    found = set()
    for pid in ranks:
        try:
            lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
        except OSError:
            continue
        places = (line.split(maxsplit=5)[-1] for line in lines)
        found |= {place for place in places if place.startswith(("/dev/shm/", "/tmp/"))}
    found = {place for place in found if not place.startswith((f"{ROOT}/", f"{sys.prefix}/"))}
    return {place for place in found if not place.endswith((".so", " (deleted)"))}


def nobody_is_left() -> bool:
    """Return whether all ranks and what they started are gone within the 20 s that they have."""
    deadline = time.monotonic() + 20
    while still_running(watching=True) and time.monotonic() < deadline:
        time.sleep(0.2)
    return not still_running(watching=True)


def refused(result, said: str) -> None:
    """Assert one line from rank 0, a non-zero exit, and nobody left."""
    assert result.returncode != 0
    lines = [line for line in result.stderr.splitlines() if line.startswith("galaxy_mpi: ")]
    assert len(lines) == 1, result.stderr
    assert said in lines[0]
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    assert nobody_is_left()
