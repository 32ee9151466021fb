"""Checks that MPI starts, in separate processes, which may fail or hang."""

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence

from galaxy_mpi.health.finding import Finding, Level

__all__ = ["launch_findings"]

LIMIT_S = 60.0
"""Time limit per check, in seconds of host time."""

_LIBRARY = """
import json, mpi4py
mpi4py.rc.thread_level = "funneled"
from mpi4py import MPI
level = {MPI.THREAD_SINGLE: "single", MPI.THREAD_FUNNELED: "funneled",
         MPI.THREAD_SERIALIZED: "serialized", MPI.THREAD_MULTIPLE: "multiple"}[MPI.Query_thread()]
print(json.dumps([MPI.Get_library_version().split(",")[0].split("\\n")[0].strip("\\0 "),
                  mpi4py.__version__, level]))
"""

_RANKS = """
from mpi4py import MPI
world = MPI.COMM_WORLD
if world.allreduce(1) == world.size and world.rank == 0:
    print("ranks:", world.size)
"""

_SET_UP = "run `sh launch/setup.sh`, then `. .venv/bin/activate`"


def launch_findings(mpirun: str = "mpirun", n_ranks: int = 2) -> list[Finding]:
    """Check the MPI library, the launcher, and that they match.

    Parameters
    ----------
    mpirun : str
        The launcher.
    n_ranks : int
        How many ranks to start.
    """
    library, launcher = _library(), _launcher(mpirun)
    findings = [library, launcher]
    if Level.BAD not in (library.level, launcher.level):
        findings.append(_ranks(mpirun, n_ranks))
    return findings


def _library() -> Finding:
    code, out, errors = _ask([sys.executable, "-c", _LIBRARY])
    try:
        name, binding, level = json.loads(out.splitlines()[-1]) if code == 0 else ("", "", "")
    except (ValueError, IndexError):
        code = 1
    if code != 0:
        return Finding("MPI", Level.BAD, f"does not start: {_last(errors)}", _SET_UP)
    found = f"{name}, mpi4py {binding}, thread level {level}"
    if level == "single":
        advice = "this MPI does not support other threads; build it with thread support"
        return Finding("MPI", Level.BAD, found, advice)
    return Finding("MPI", Level.GOOD, found)


def _launcher(mpirun: str) -> Finding:
    path = shutil.which(mpirun)
    if path is None:
        return Finding("launcher", Level.BAD, f"no {mpirun} in PATH", _SET_UP)
    code, out, errors = _ask([path, "--version"])
    if code != 0:
        return Finding("launcher", Level.BAD, f"{path}: {_last(errors or out)}", _SET_UP)
    return Finding("launcher", Level.GOOD, f"{path}, {out.splitlines()[0] if out else '?'}")


def _ranks(mpirun: str, n_ranks: int) -> Finding:
    words = [mpirun, "-n", str(n_ranks), sys.executable, "-c", _RANKS]
    code, out, errors = _ask(words)
    sizes = [line for line in out.splitlines() if line.startswith("ranks: ")]
    if code == 0 and sizes == [f"ranks: {n_ranks}"]:
        return Finding("ranks", Level.GOOD, f"{n_ranks} start and connect")
    if code == 0 and len(sizes) == n_ranks:
        found = f"{mpirun} starts {n_ranks} unconnected processes"
        advice = f"it belongs to another MPI than mpi4py uses; {_SET_UP}"
        return Finding("ranks", Level.BAD, found, advice)
    said = errors.lower()
    if "root" in said:
        found = "this MPI refuses to run as root"
        advice = "activate the environment, or set OMPI_ALLOW_RUN_AS_ROOT{,_CONFIRM}=1"
        return Finding("ranks", Level.BAD, found, advice)
    if "not enough slots" in said:
        found = f"fewer slots than the {n_ranks} ranks that were tried"
        advice = "use mpirun --oversubscribe, or give more slots in the hostfile"
        return Finding("ranks", Level.BAD, found, advice)
    return Finding("ranks", Level.BAD, f"{n_ranks} did not start: {_last(errors)}", _SET_UP)


def _ask(words: Sequence[str]) -> tuple[int, str, str]:
    """Return exit code, standard output and error; -1 if it did not end."""
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, errors="replace", timeout=LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return -1, "", f"no answer in {LIMIT_S:.0f} s"
    except OSError as error:
        return -1, "", str(error)
    return done.returncode, done.stdout, done.stderr


def _last(text: str) -> str:
    """Return the last non-empty line."""
    lines = [line.strip(" -") for line in text.splitlines() if line.strip(" -")]
    return lines[-1] if lines else "no output"
