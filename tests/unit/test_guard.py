"""The limit on waits in which no thread of Python runs."""

import subprocess
import sys

SCRIPT = """
import ctypes, sys
from galaxy_mpi.mesh.guard import limited
seconds = float(sys.argv[1])
with limited(seconds):
    ctypes.PyDLL(None).usleep(800_000)  # holds the interpreter's lock, as MPI's start does
print("done")
"""


def run(seconds):
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, seconds], capture_output=True, text=True, check=False
    )


def test_a_wait_that_holds_the_lock_of_the_interpreter_ends_the_process():
    done = run("0.2")
    assert (done.returncode, done.stdout) == (1, "")
    assert "Timeout" in done.stderr


def test_a_shorter_one_and_one_without_a_limit_do_not():
    assert [run(seconds).stdout for seconds in ("60", "0")] == ["done\n", "done\n"]
