"""Faults in real runs: everything ends, with the cause, and nobody is left.

Limits are deadlines of a failing test, far above what is promised.
"""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.command.decode_command import (
    LIMIT_S,
    command,
    environment,
    faulty,
    nobody_is_left,
    play,
    run,
    still_running,
)

ENDLESS = ("--quiet", "--max-new-tokens", "5000")
# A test whose id is "mpi" alone would be skipped by pytest-mpi.
TRANSPORTS = pytest.mark.parametrize("transport", ["shared", "mpi"], ids=["memory", "messages"])
SHORT = ("--mesh", "1x2", "--quiet", "--max-new-tokens", "4")


def start(words: list[str], ranks: int, **environ: str) -> subprocess.Popen:
    """Return a run that is in its steps, with all its output in pipes."""
    job = subprocess.Popen(
        words, env=environment(**environ), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 300
    while len(still_running()) < ranks and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(4)
    assert job.poll() is None
    assert len(still_running()) == ranks
    return job


@TRANSPORTS
@pytest.mark.parametrize("wrapper", [[], ["sh", "-c", '"$@"; exit $?', "sh"]])
def test_ranks_end_with_an_mpirun_that_is_killed(transport, wrapper):
    words = command(2, "--mesh", "1x2", *ENDLESS, "--transport", transport)
    words[3:3] = wrapper
    job = start(words, 2)
    os.kill(job.pid, signal.SIGKILL)
    job.stdout.close()
    job.stderr.close()
    job.wait(LIMIT_S)
    assert nobody_is_left()


@TRANSPORTS
def test_a_stopped_rank_ends_the_run_after_the_wait_timeout_with_op_step_and_chip(transport):
    options = ("--transport", transport, "--wait-timeout", "3")
    job = start(command(2, "--mesh", "1x2", *ENDLESS, *options), 2)
    os.kill(still_running()[-1], signal.SIGSTOP)
    _, said = job.communicate(timeout=LIMIT_S)
    assert job.returncode != 0
    assert b"decode step" in said
    # It was stopped while it worked, or while it waited too: then the other names both.
    alone = b"waited 3 s for chip (0, " in said and b" is stopped\n" in said
    assert alone or b"all ranks wait, and none has moved for " in said
    assert b" within a row, " in said
    assert nobody_is_left()


def test_a_killed_run_that_is_ended_by_the_watchdog_needs_no_standard_error():
    """Without mpirun's pipes, which are closed, and with nobody who would end the ranks."""
    words = command(2, "--mesh", "1x2", *ENDLESS, "--wait-timeout", "3")
    job = start(["sh", "-c", '"$@" 2>&-; exit $?', "sh", *words], 2)
    os.kill(still_running()[-1], signal.SIGSTOP)
    job.communicate(timeout=LIMIT_S)
    assert job.returncode != 0
    assert nobody_is_left()


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("exit", "SystemExit: asked to fail"),
        ("interrupt", "KeyboardInterrupt: asked to fail"),
        ("panic", "BaseException: asked to fail"),
    ],
)
def test_whatever_one_rank_raises_ends_all_with_its_traceback(kind, said):
    result = play(faulty(2, kind, 1, *SHORT))
    assert result.returncode == 1
    assert "galaxy_mpi: rank 1 failed:\nTraceback" in result.stderr
    assert said in result.stderr
    assert nobody_is_left()


def test_an_error_of_the_user_on_one_rank_is_told_by_that_rank():
    result = play(faulty(2, "user", 1, *SHORT))
    assert result.returncode == 2
    assert "galaxy_mpi: asked to fail\n" in result.stderr
    assert "Traceback" not in result.stderr
    assert nobody_is_left()


def test_an_environment_that_is_wrong_on_one_rank_only_is_one_line():
    """The other rank has nothing to complain about."""
    env = environment()
    words = ["python", "-m", "galaxy_mpi.decode", *SHORT]
    result = subprocess.run(
        ["mpirun", "-n", "1", *words, ":", "-n", "1", "env", "LINE_RS=7", *words],
        env=env,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert result.returncode == 2
    assert result.stderr.count("galaxy_mpi: LINE_RS is 1 (line) or 0 (ring), got '7'") == 1
    assert nobody_is_left()


@pytest.mark.parametrize("closed", ["2>&-", ">/dev/full 2>&1"])
def test_a_failing_rank_ends_all_though_its_traceback_cannot_be_written(closed):
    words = faulty(2, "raise", 1, *SHORT)
    words[3:3] = ["sh", "-c", f'"$@" {closed}; exit $?', "sh"]
    result = subprocess.run(
        words,
        env=environment(),
        capture_output=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert result.returncode == 1
    assert nobody_is_left()


def test_a_wait_timeout_that_cannot_be_is_one_line():
    for value in ("nan", "-1", "inf"):
        result = run(2, *SHORT, f"--wait-timeout={value}")
        assert result.returncode == 2
        assert result.stderr.count("--wait-timeout must be 0 or more seconds") == 1


SCRIPT = """
import sys, threading, time
from mpi4py import MPI
from galaxy_mpi.generator import Generator, create_model
model = create_model("demo", mesh="1x2", max_seq_len=64, max_batch_size=2, comm=MPI.COMM_WORLD)
rank = MPI.COMM_WORLD.rank
def fail():
    raise RuntimeError(f"asked rank {rank} to fail")
with Generator(model) as generator:
    for turn in range(2):
        if rank == 1 and turn == 1:
            FAULT
        generator.prefill_forward([[1, 2, 3]])
print("done", flush=True)
"""


def play_script(fault: str) -> subprocess.CompletedProcess:
    """Run a caller's script whose second rank has a fault in its second turn."""
    return subprocess.run(
        ["mpirun", "-n", "2", sys.executable, "-c", SCRIPT.replace("FAULT", fault)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


@pytest.mark.parametrize(
    ("fault", "code", "said"),
    [
        ("fail()", 1, "RuntimeError: asked rank 1 to fail"),
        ("raise KeyboardInterrupt", 1, "KeyboardInterrupt"),
        (
            "threading.Thread(target=fail).start(); time.sleep(999)",
            1,
            "RuntimeError: asked rank 1 to fail",
        ),
        ("sys.exit(3)", 3, ""),
        ("sys.exit('no more')", 1, "no more"),
    ],
)
def test_an_error_that_a_script_does_not_catch_ends_all_ranks(fault, code, said):
    result = play_script(fault)
    assert (result.returncode, result.stdout) == (code, "")
    assert said in result.stderr
    assert "waited" not in result.stderr  # not the watchdog ended it
    assert nobody_is_left()


@pytest.mark.parametrize("fault", ["sys.exit(0)", "continue"])
def test_a_rank_that_leaves_early_is_told_by_those_that_wait_for_it(fault):
    result = play_script(fault)
    assert result.returncode != 0
    assert "galaxy_mpi: " in result.stderr
    assert "but chip (0, 1) has closed the model, or left the program" in result.stderr
    assert nobody_is_left()


def test_a_script_that_forgets_to_close_its_model_ends_well():
    result = play_script("pass")
    assert (result.returncode, result.stdout.splitlines()) == (0, ["done"] * 2), result.stderr
