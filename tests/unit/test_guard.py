"""The limit on waits in which no thread of Python runs."""

import contextlib
import os
import signal
import subprocess
import sys

import pytest

from galaxy_mpi.mesh import stopped
from galaxy_mpi.mesh.guard import no_rank_stopped

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="states are read from /proc")

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


@contextlib.contextmanager
def processes(number):
    """Yield processes that sleep, and end them."""
    environ = os.environ | {"PMIX_RANK": "3"}
    started = [
        subprocess.Popen(["sleep", "600"], stderr=subprocess.DEVNULL, env=environ)
        for _ in range(number)
    ]
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            process.wait()


def stop(process):
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED)  # it is stopped, not only about to be


def test_a_stopped_rank_is_ended_and_one_that_sleeps_is_not():
    with processes(2) as (sleeping, victim):
        stop(victim)
        watch = subprocess.Popen(
            [sys.executable, "-I", "-S", stopped.__file__, str(os.getpid()), "0.4"],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert victim.wait(timeout=30) == -signal.SIGKILL
        said = watch.communicate(timeout=30)[1]
        assert watch.returncode == 0, "it ends with its input"
        assert said.startswith(f"galaxy_mpi: rank 3 (process {victim.pid}) on ")
        assert sleeping.poll() is None


def test_nobody_is_stopped_if_the_launcher_is():
    with subprocess.Popen(
        ["sh", "-c", "sleep 600 >&2 & echo $!; wait"],
        env=os.environ | {"PMIX_RANK": "4", "PMIX_NAMESPACE": "mine"},
        stdout=subprocess.PIPE,
        text=True,
    ) as launcher:
        rank = int(launcher.stdout.readline())
        try:
            os.kill(rank, signal.SIGSTOP)
            while not stopped.stopped_descendants(launcher.pid):
                pass
            found = {rank: f"rank 4 (process {rank})"}
            assert stopped.stopped_descendants(launcher.pid) == found
            assert stopped.stopped_descendants(launcher.pid, b"PMIX_NAMESPACE=mine") == found
            assert stopped.stopped_descendants(launcher.pid, b"PMIX_NAMESPACE=another") == {}
            stop(launcher)
            assert stopped.stopped_descendants(launcher.pid) == {}
        finally:
            os.kill(rank, signal.SIGKILL)
            launcher.kill()


@pytest.mark.parametrize(("place", "watches"), [("0", True), ("1", True), ("2", False)])
def test_two_ranks_of_a_host_watch(place, watches, monkeypatch):
    started = []
    spawn = os.posix_spawn
    monkeypatch.setattr(
        os, "posix_spawn", lambda *a, **k: started.append(spawn(*a, **k)) or started[-1]
    )
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "7")
    monkeypatch.setenv("OMPI_COMM_WORLD_LOCAL_RANK", place)
    with no_rank_stopped():
        assert bool(started) == watches
    for process in started:
        with pytest.raises(ChildProcessError):
            os.waitpid(process, 0)
