"""Standard input and output of galaxy-mpi, and ranks: terminals, pipes, and text as it comes."""

import errno
import os
import pty
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.command.decode_command import LIMIT_S, environment, nobody_is_left

SCRIPT = Path(sys.executable).parent / "galaxy-mpi"
QUICK = (str(SCRIPT), "decode", "--mesh", "1x2", "--layers", "1", "--max-new-tokens", "4")
PROMPTS = b"It is a truth\nMr. Darcy\n"
CTRL_D = b"\x04"


class Terminal:
    """A command with a terminal of its own.

    Parameters
    ----------
    words : sequence of str
    """

    def __init__(self, *words):
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup, under which tests run, ignores it
            os.execve(words[0], words, environment())
        self.shown, self._is_over, self._ends = b"", False, time.monotonic() + LIMIT_S

    def types(self, text):
        os.write(self._fd, text)

    def shows(self, text):
        """Wait until a text is on the screen."""
        while text not in self.shown:
            assert self._read(), self.shown
        return True

    def ends(self):
        """Return the exit code."""
        while self._read():
            pass
        self._is_over = True
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def close(self):
        """Close the terminal, and end a command that a failed test has left."""
        if not self._is_over:
            os.kill(self.pid, signal.SIGTERM)  # galaxy-mpi takes its ranks with it
            ends = time.monotonic() + 10
            while os.waitpid(self.pid, os.WNOHANG) == (0, 0):
                if time.monotonic() > ends:
                    os.kill(self.pid, signal.SIGKILL)
                    os.waitpid(self.pid, 0)
                    break
                time.sleep(0.05)
        os.close(self._fd)

    def _read(self):
        wait_s = max(self._ends - time.monotonic(), 0)
        assert select.select([self._fd], [], [], wait_s)[0], self.shown
        try:
            chunk = os.read(self._fd, 65536)
        except OSError as error:
            if error.errno == errno.EIO:  # the other side is closed
                return False
            raise
        self.shown += chunk
        return bool(chunk)


@pytest.fixture
def opened():
    """Return what opens terminals; they are closed and their commands ended, come what may."""
    terminals = []

    def open_one(*words):
        terminals.append(Terminal(*words))
        return terminals[-1]

    yield open_one
    for terminal in terminals:
        terminal.close()


def test_a_command_that_a_failed_test_leaves_is_ended():
    terminal = Terminal(*QUICK, "--prompts-file", "-")
    terminal.shows(b"reading the model")
    terminal.close()
    with pytest.raises(ProcessLookupError):
        os.kill(terminal.pid, 0)
    assert nobody_is_left()


def test_prompts_are_typed(opened):
    terminal = opened(*QUICK, "--prompts-file", "-")
    terminal.shows(b"reading the model")
    terminal.types(PROMPTS + CTRL_D)
    assert terminal.ends() == 0, terminal.shown
    assert b"[user 0] It is a truth|" in terminal.shown
    assert b"[user 1] Mr. Darcy|" in terminal.shown
    assert nobody_is_left()


def test_a_run_that_reads_nothing_does_not_wait_for_what_is_typed(opened):
    terminal = opened(*QUICK, "--prompt", "It is")
    assert terminal.ends() == 0, terminal.shown


def test_ctrl_c_ends_a_run_that_waits_for_prompts(opened):
    terminal = opened(*QUICK, "--prompts-file", "-")
    terminal.shows(b"reading the model")
    terminal.types(b"It is a truth\n\x03")
    assert terminal.ends() == 130, terminal.shown
    assert nobody_is_left()


STOPS = """
from galaxy_mpi.systems import Attention

class Stops(Attention):
    def decode(self, q, k, v, positions):
        import os
        if os.environ["OMPI_COMM_WORLD_RANK"] == "0":
            breakpoint()
        return super().decode(q, k, v, positions)
"""


def test_a_debugger_on_rank_0_is_typed_to(opened, tmp_path):
    path = tmp_path / "stops.py"
    path.write_text(STOPS)
    words = ("--prompt", "It is", "--attention-class", f"{path}:Stops", "--wait-timeout", "0")
    terminal = opened(*QUICK[:-1], "2", *words)
    terminal.shows(b"-> ")  # the line differs between Pythons; mpirun keeps back "(Pdb) "
    terminal.types(b"p 'queries', q.shape\n")
    terminal.shows(b"('queries', (1, 16, 32))")
    terminal.types(b"c\n")
    assert terminal.ends() == 0, terminal.shown


def test_what_is_typed_ahead_is_left_to_the_shell(opened):
    script = 'echo ready; "$@" --quiet; read line; echo "then $line"'
    terminal = opened("/bin/sh", "-c", script, "sh", *QUICK, "--prompt", "It is")
    terminal.shows(b"ready")
    terminal.types(b"the next command\n")
    terminal.shows(b"then the next command")
    assert terminal.ends() == 0


def test_prompts_come_through_a_pipe_or_from_a_file(tmp_path):
    path = tmp_path / "prompts"
    path.write_bytes(PROMPTS)
    words = [*QUICK, "--prompts-file=-", "--quiet"]
    options = {"capture_output": True, "env": environment(), "timeout": LIMIT_S, "check": False}
    piped = subprocess.run(words, input=PROMPTS, **options)
    assert piped.returncode == 0, piped.stderr
    assert b"[user 1] Mr. Darcy|" in piped.stdout
    with path.open() as file:
        assert b"[user 1] Mr. Darcy|" in subprocess.run(words, stdin=file, **options).stdout
    nothing = subprocess.run(words, stdin=subprocess.DEVNULL, **options)
    assert nothing.returncode == 2
    assert nothing.stderr == b"galaxy_mpi: --prompts-file - has no line; give one prompt a line\n"
    with path.open("ab") as only_written:
        unreadable = subprocess.run(words, stdin=only_written, **options)
    assert unreadable.returncode == 2
    assert b"galaxy_mpi: standard input cannot be read: Bad file descriptor\n" in unreadable.stderr


def test_a_pipe_that_does_not_wait_is_read_to_its_end():
    ours, theirs = os.pipe()
    os.set_blocking(ours, False)
    words = [*QUICK, "--prompts-file", "-"]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdin=ours, stdout=pipe, stderr=pipe, env=environment()) as run:
        os.close(ours)
        for line in PROMPTS.splitlines(keepends=True):
            # Nothing to read at first, and none between the lines.
            time.sleep(1.0)
            os.write(theirs, line)
        os.close(theirs)
        shown, errors = run.communicate(timeout=LIMIT_S)
    assert run.returncode == 0, errors
    assert b"[user 1] Mr. Darcy|" in shown


def test_a_bare_mpirun_that_does_not_pass_the_end_is_told(tmp_path):
    mpirun = SCRIPT.parent / "mpirun"
    words = [str(mpirun), "-n", "2", str(SCRIPT), *QUICK[1:], "--prompts-file", "-", "--quiet"]
    options = {"capture_output": True, "env": environment(), "timeout": LIMIT_S, "check": False}
    told = subprocess.run(words, input=PROMPTS, **options)
    assert told.returncode == 2
    assert told.stderr.count(b"does not tell ranks where standard input ends") == 1


@pytest.mark.parametrize("kind", ["terminal", "pipe"])
def test_streamed_text_comes_in_pieces_of_a_line(kind):
    """What mpirun passes on ends with a line; what comes past it with a token."""
    words = [*QUICK[:-1], "100", "--prompt", "It is a", "--stream", "--quiet"]
    ours, theirs = pty.openpty() if kind == "terminal" else os.pipe()
    with subprocess.Popen(words, stdout=theirs, stderr=subprocess.PIPE, env=environment()) as run:
        os.close(theirs)
        pieces = []
        with suppress(OSError):
            while piece := os.read(ours, 65536):
                pieces.append(piece)
        _, errors = run.communicate(timeout=LIMIT_S)
    os.close(ours)
    assert run.returncode == 0, errors
    assert pieces[0].startswith(b"[user 0] It is a|")
    assert len([piece for piece in pieces if not piece.endswith(b"\n")]) > 3
    shown = b"".join(pieces)
    assert shown.index(b"[user 0]") < shown.index(b"mesh  ")  # the report is behind it
