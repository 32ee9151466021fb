"""What galaxy-mpi lets through of mpirun's standard error, and what becomes of its signals."""

import os
import signal
import subprocess
import sys

import pytest

from galaxy_mpi.cli.notices import Notices
from galaxy_mpi.cli.supervise import supervise
from galaxy_mpi.errors import INTERRUPTED

RULE = b"-" * 74 + b"\n"
ABORT = (
    RULE
    + b"MPI_ABORT was invoked on rank 1 in communicator MPI_COMM_WORLD\n"
    + b"  Proc: [[41343,1],1]\n  Errorcode: 1\n\n"
    + b"NOTE: invoking MPI_ABORT causes Open MPI to kill all MPI processes.\n"
    + b"You may or may not see output from other processes, depending on\n"
    + b"exactly when Open MPI kills them.\n"
    + RULE
    + RULE
    + b"prterun has exited due to process rank 1 with PID 0 on node vm calling\n"
    + b'"abort". This may have caused other processes in the application to be\n'
    + b"terminated by signals sent by prterun (as reported here).\n"
    + RULE
    + b"\0"
)
KILLED = (
    RULE
    + b"prterun noticed that process rank 1 with PID 3338 on node vm exited on\n"
    + b"signal 9 (Killed).\n"
    + RULE
)
WARNING = RULE + b"WARNING: no device found, using TCP\n" + RULE
OURS = b"galaxy_mpi: rank 1 failed:\nTraceback (most recent call last):\n"


def passed(text, size, *, is_interrupted=False):
    found = []
    notices = Notices(found.append)
    notices.is_interrupted = is_interrupted
    for start in range(0, len(text), size):
        notices.feed(text[start : start + size])
    notices.close()
    return b"".join(found)


@pytest.mark.parametrize("size", [1, 7, 4096])
def test_the_notice_of_an_abort_passes_only_without_a_cause(size):
    assert passed(OURS + ABORT, size) == OURS
    # The cause may come later, from another rank.
    assert passed(ABORT.rstrip(b"\0") + OURS, size) == OURS
    assert passed(b"Segfault\n" + ABORT, size).rstrip(b"\0") == b"Segfault\n" + ABORT.rstrip(b"\0")
    # A rank that was asked to end does not know why.
    asked_to_end = b"galaxy_mpi: rank 0: asked to end (SIGTERM) before there was a report\n"
    assert passed(asked_to_end + ABORT, size).startswith(asked_to_end + ABORT[:80])
    # A rank that was killed could say nothing; after Ctrl-C it is expected.
    assert passed(OURS + KILLED, size) == OURS + KILLED
    assert passed(KILLED, size, is_interrupted=True) == b""


@pytest.mark.parametrize("size", [1, 7, 4096])
def test_all_else_passes_unchanged(size):
    lines = b"\r10 %\r20 %\n\n--- a ---\n" + RULE + b"unfinished"
    for text in (lines, WARNING, OURS + WARNING, RULE * 5, RULE + b"x\n" * 100):
        assert passed(text, size) == text


def test_the_beginning_of_a_line_is_shown_at_once():
    found = []
    notices = Notices(found.append)
    notices.feed(b"step 3")
    assert found == [b"step 3"]
    notices.feed(b"\n" + RULE)
    assert b"".join(found) == b"step 3\n"


CHILD = """
import signal, sys, time
def asked(number, frame):
    print("asked by", signal.Signals(number).name, flush=True)
    sys.exit(7)
for one in (signal.SIGUSR1, signal.SIGTERM):
    signal.signal(one, asked)
print("ready", flush=True)
time.sleep(60)
"""
PARENT = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in background jobs
from galaxy_mpi.cli.supervise import supervise
sys.exit(supervise([sys.executable, "-c", sys.argv[1]], os.environ))
"""


@pytest.mark.parametrize(
    ("sent", "said", "code"),
    [
        (signal.SIGINT, "asked by SIGUSR1", INTERRUPTED),
        (signal.SIGTERM, "asked by SIGTERM", 7),
    ],
)
def test_an_interrupt_is_a_request_and_other_signals_are_passed_on(sent, said, code):
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, CHILD], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as parent:
        assert parent.stdout.readline() == b"ready\n"
        parent.send_signal(sent)
        told, errors = parent.communicate(timeout=30)
    assert told.decode().strip() == said
    assert parent.returncode == code
    assert (b"galaxy_mpi: interrupted" in errors) == (sent == signal.SIGINT)


def test_an_interrupt_before_ranks_can_take_it_is_told():
    deaf = "import time; print('ready', flush=True); time.sleep(60)"
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, deaf], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as parent:
        assert parent.stdout.readline() == b"ready\n"
        parent.send_signal(signal.SIGINT)
        _, errors = parent.communicate(timeout=30)
    assert parent.returncode == INTERRUPTED
    assert errors.endswith(b"the ranks were still starting; there is nothing to report\n")


def test_the_child_is_ended_when_its_parent_is_killed():
    with subprocess.Popen([sys.executable, "-c", PARENT, CHILD], stdout=subprocess.PIPE) as parent:
        assert parent.stdout.readline() == b"ready\n"
        os.kill(parent.pid, signal.SIGKILL)
        assert parent.stdout.read() == b"asked by SIGTERM\n"  # its end: nobody writes any more


@pytest.mark.parametrize("n_killed", [3, 4])
def test_a_rank_that_is_killed_for_memory_is_told(n_killed, tmp_path, capfd):
    counter = tmp_path / "memory.events"
    counter.write_text("low 0\noom 2\noom_kill 3\n")
    killed = f"echo low 0 > {counter}; echo oom_kill {n_killed} >> {counter}; kill -9 $$"
    assert supervise(["sh", "-c", killed], dict(os.environ), [counter]) == 128 + 9
    told = capfd.readouterr().err
    assert ("had no memory left; see `free` and galaxy-mpi doctor" in told) == (n_killed == 4)


def test_a_signal_that_ends_the_child_is_an_exit_code():
    killed = "import os; os.kill(os.getpid(), 9)"
    ended = subprocess.run([sys.executable, "-c", PARENT, killed], check=False)
    assert ended.returncode == 128 + 9


@pytest.mark.parametrize("name", ["GALAXY_MPI_INPUT", "GALAXY_MPI_OUTPUT"])
def test_a_run_inside_a_rank_has_streams_of_its_own(name):
    environ = {**os.environ, name: "of the outer run"}
    assert supervise(["sh", "-c", f'test "${name}" != "of the outer run"'], environ) == 0
