"""What ends a process, without ranks: the watchdog's counting, the lifeline, last words."""

import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from galaxy_mpi.arguments import ArgumentParser
from galaxy_mpi.command import run_alone
from galaxy_mpi.mesh.lifeline import ancestry, is_cut
from galaxy_mpi.mesh.plane import Label
from galaxy_mpi.mesh.waits import LINE_BYTES, Waits, padded
from galaxy_mpi.mesh.watchdog import Watchdog

LIMIT_S = 120

CLOSED_PIPE = "import os; r, w = os.pipe(); os.dup2(w, 2); os.close(r); os.close(w)\n"
FULL_PIPE = """
import os
r, w = os.pipe()
os.set_blocking(w, False)
try:
    while True: os.write(w, bytes(4096))
except BlockingIOError: pass
os.set_blocking(w, True)
os.dup2(w, 2)
"""


class Forever:
    """What is waited for."""

    label = Label(1, "all_reduce WO")

    def missing(self):
        return [3]


def wait(waits: Waits) -> None:
    """Begin to wait, or end it."""
    waits.crossing = Forever()
    waits.count[0] += 1


def python(code: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, timeout=LIMIT_S, check=False, **options
    )


def test_many_short_waits_at_the_same_crossing_are_not_one_long_one():
    """Whenever the watchdog looks, the rank is in this wait, but it is another one each time."""
    said, waits = [], Waits(0)
    watchdog = Watchdog(timeout_s=0.2, waits=waits, expired=said.append)
    wait(waits)
    for _ in range(500):
        wait(waits)
        wait(waits)
        time.sleep(0.002)
    assert said == []
    deadline = time.monotonic() + LIMIT_S
    while not said and time.monotonic() < deadline:
        time.sleep(0.01)
    assert said == ["rank 0 waited 0 s for rank 3 in all_reduce WO; did that rank end or stop?"]
    watchdog.close()


def test_a_wait_that_may_take_as_long_as_it_likes_is_none_and_neither_is_work():
    said, waits = [], Waits(0)
    watchdog = Watchdog(timeout_s=0.2, waits=waits, expired=said.append)
    with waits.patiently("a broadcast from rank 0"):
        time.sleep(0.6)
    time.sleep(0.6)
    assert said == []
    watchdog.close()


@pytest.mark.parametrize(("is_fixed", "ends"), [(False, False), (True, True)])
def test_a_large_model_is_given_more_time_unless_the_user_said_how_long(is_fixed, ends):
    said, waits = threading.Event(), Waits(0)
    watchdog = Watchdog(0.2, is_fixed=is_fixed, waits=waits, expired=lambda line: said.set())
    watchdog.allow(1e9)
    wait(waits)
    assert said.wait(LIMIT_S if ends else 2.0) == ends
    watchdog.close()


def test_a_timeout_of_0_is_none():
    said, waits = [], Waits(0)
    watchdog = Watchdog(0, waits=waits, expired=said.append)
    wait(waits)
    time.sleep(1.5)
    assert said == []
    watchdog.close()


def test_all_who_wait_for_each_other_end_with_where_each_of_them_is():
    """Two processes of a host that is the whole run; neither began or ended to wait since."""
    page, said = np.zeros(2 * LINE_BYTES, np.uint8), []
    here, there = (Waits(rank, (0, 1), page, is_whole=True) for rank in (0, 1))
    here.text[:], there.text[:] = padded("all_gather SDPA"), padded("all_reduce WO")
    watchdog = Watchdog(timeout_s=8, waits=here, expired=said.append)
    wait(there)
    wait(here)
    deadline = time.monotonic() + LIMIT_S
    while not said and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(said) == 1
    assert "all ranks wait, and none has moved for" in said[0]
    assert "rank 0 in all_gather SDPA" in said[0]
    assert "rank 1 in all_reduce WO" in said[0]
    watchdog.close()


@pytest.mark.parametrize("is_working", [False, True])
def test_a_wait_behind_those_that_have_left_ends_unless_somebody_still_works(is_working):
    page, said = np.zeros(3 * LINE_BYTES, np.uint8), threading.Event()
    here, left, other = (Waits(rank, (0, 1, 2), page, is_whole=True) for rank in range(3))
    here.text[:] = padded("all_gather SDPA")
    told = []
    watchdog = Watchdog(4, waits=here, expired=lambda line: (told.append(line), said.set()))
    left.end()
    wait(here)
    if not is_working:
        wait(other)
    # Patience is half of the limit; behind somebody who works, only the limit itself counts.
    assert said.wait(LIMIT_S)
    watchdog.close()
    behind = "rank 0 waited 2 s in all_gather SDPA, but rank 1 has closed the model, or left"
    limit = "rank 0 waited 4 s for rank 3 in all_reduce WO"
    assert told[0].startswith(limit if is_working else behind)


def test_nobody_is_ended_while_a_rank_writes_its_report():
    """It was interrupted in the middle of a wait, and the others wait for it."""
    page, said = np.zeros(2 * LINE_BYTES, np.uint8), []
    here, there = (Waits(rank, (0, 1), page, is_whole=True) for rank in (0, 1))
    wait(here)
    wait(there)
    here.leave()
    assert here.number % 2 == 0
    watchdogs = [Watchdog(timeout_s=0.2, waits=w, expired=said.append) for w in (here, there)]
    time.sleep(1.0)
    assert said == []
    for watchdog in watchdogs:
        watchdog.close()


WAIT = """
import threading
from galaxy_mpi.mesh.plane import Label
from galaxy_mpi.mesh.waits import Waits
from galaxy_mpi.mesh.watchdog import Watchdog
class Forever:
    label = Label(1, "WO")
    def missing(self): return MISSING
waits = Waits(0)
waits.crossing = Forever()
waits.count[0] += 1
Watchdog(0.2, waits=waits)
threading.Event().wait(100)
"""


@pytest.mark.parametrize("stderr", [CLOSED_PIPE, FULL_PIPE, "import os; os.close(2)\n"])
def test_a_standard_error_that_takes_nothing_does_not_stop_the_watchdog(stderr):
    assert python(stderr + WAIT.replace("MISSING", "[3]")).returncode == 1


def test_the_watchdog_says_what_it_ends_for_and_ends_if_it_fails_itself():
    result = python(WAIT.replace("MISSING", "[3]"))
    assert (result.returncode, result.stderr) == (
        1,
        b"galaxy_mpi: rank 0 waited 0 s for rank 3 in WO; did that rank end or stop?\n",
    )
    result = python(WAIT.replace("MISSING", "1 / 0"))
    assert result.returncode == 1
    assert b"ZeroDivisionError" in result.stderr


def test_the_launcher_is_the_first_ancestor_without_the_ranks_variables():
    """This process - a shell with the variable - a rank with the variable."""
    code = (
        "import os; from galaxy_mpi.mesh.lifeline import *; c = ancestry(os.environ); "
        "print(*c, is_cut(c))"
    )
    result = subprocess.run(
        ["sh", "-c", f'"{sys.executable}" -c "{code}"; exit $?'],
        env=os.environ | {"PMIX_RANK": "7531"},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=True,
    )
    _, shell, launcher, cut = result.stdout.split()
    assert (int(launcher), cut) == (os.getpid(), "False")
    assert int(shell) != os.getpid()


def test_without_a_launcher_the_chain_ends_at_the_parent():
    assert ancestry({}) == [os.getpid(), os.getppid()]
    assert not is_cut([os.getpid(), os.getppid()])
    assert is_cut([os.getpid(), os.getpid()])


LAUNCHER = """
import os, subprocess, sys, time
rank = "from galaxy_mpi.mesh.lifeline import *; end_with_launcher(); print(1, flush=True);"
rank += "import time; time.sleep(600)"
words = [sys.executable, "-c", rank]
if SHELL:
    words = ["sh", "-c", '"$@"; exit $?', "sh", *words]
os.environ["PMIX_RANK"] = "7531"
child = subprocess.Popen(words)
time.sleep(600)
"""


@pytest.mark.parametrize("shell", [False, True])
def test_a_killed_launcher_takes_its_ranks_along(shell):
    """The pipe is held by the rank: its end of file says that the rank is gone."""
    code = LAUNCHER.replace("SHELL", str(shell))
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as launcher:
        assert launcher.stdout.readline() == b"1\n"
        time.sleep(0.3)
        os.kill(launcher.pid, signal.SIGKILL)
        gone = threading.Event()
        reader = threading.Thread(target=lambda: (launcher.stdout.read(), gone.set()), daemon=True)
        reader.start()
        assert gone.wait(LIMIT_S)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "galaxy_mpi: out of memory; see `ulimit -v`"),
        (MemoryError("Unable to allocate 2 MiB"), "out of memory: Unable to allocate 2 MiB; see"),
    ],
)
def test_memory_that_is_not_there_is_a_line(error, said, capfd):
    def prepare(arguments):
        raise error

    parser = ArgumentParser("galaxy_mpi.estimate", "Of nothing.")
    assert run_alone(parser, [], prepare) == 1
    told = capfd.readouterr().err
    assert said in told
    assert told.count("\n") == 1


def test_a_watchdog_whose_thread_does_not_begin_is_an_error(monkeypatch):
    monkeypatch.setattr("galaxy_mpi.mesh.watchdog.BEGINS_IN_S", 0.05)
    monkeypatch.setattr("_thread.start_new_thread", lambda function, arguments: 0)
    with pytest.raises(MemoryError, match="has not begun"):
        Watchdog(1)


def test_a_watchdog_whose_thread_cannot_start_is_an_error(monkeypatch):
    def refuse(function, arguments):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("_thread.start_new_thread", refuse)
    with pytest.raises(MemoryError, match="cannot start") as caught:
        Watchdog(1)
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_a_process_ends_in_time_whatever_it_does():
    script = "import time; from galaxy_mpi.mesh.ending import end_within; end_within(7, 0.1); "
    ended = subprocess.run([sys.executable, "-c", script + "time.sleep(60)"], check=False)
    assert ended.returncode == 7
