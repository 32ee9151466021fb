"""Run mpirun as a child: Ctrl-C lets a run write what it has, and its last words are ours.

mpirun answers Ctrl-C by ending all ranks within half a second, too soon for rank 0 to write a
report. So mpirun gets a session of its own, where the terminal's Ctrl-C does not reach it, and is
sent SIGUSR1, which it forwards to its ranks: rank 0 writes what there is and ends the run, the
others go on (`galaxy_mpi.mesh.ending.interrupted_on_request`). A second Ctrl-C is mpirun's own.
Without a terminal, mpirun cannot read what is typed: `galaxy_mpi.cli.terminal` does.

mpirun may stay for ever when all its ranks have ended; another process then ends it
(`galaxy_mpi.mesh.lingering`, which says when that happens).
"""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType

from galaxy_mpi.cli.notices import Notices
from galaxy_mpi.cli.terminal import Input, output_of_this_process
from galaxy_mpi.errors import INTERRUPTED
from galaxy_mpi.streams import INPUT, OUTPUT

__all__ = ["supervise"]

LINGERING_S = 3.0
"""How long mpirun may stay, after its last rank has ended; all ranks are on this host."""

_LINGERING = Path(__file__).parent.parent / "mesh" / "lingering.py"

_PR_SET_PDEATHSIG = 1

_ASKED = (
    b"galaxy_mpi: interrupted; the run ends with what it has (Ctrl-C again: at once, without)\n"
)


_COUNTERS = (Path("/proc/vmstat"), Path("/sys/fs/cgroup/memory.events"))
"""Files in which Linux counts, as ``oom_kill``, processes that it ended for want of memory: on the
whole computer, and in this container."""

_NO_MEMORY = (
    b"galaxy_mpi: a rank was killed when the computer or container had no memory left; see `free` "
    b"and galaxy-mpi doctor, or use fewer chips, fewer --layers or a smaller model\n"
)


def supervise(
    words: Sequence[str], environ: Mapping[str, str], counters: Sequence[Path] = _COUNTERS
) -> int:
    """Run Open MPI's mpirun to its end; return the exit code.

    Parameters
    ----------
    words : sequence of str
        The command line.
    environ : mapping of str to str
        The whole environment.
    counters : sequence of Path
        Where the kernel counts what it kills for want of memory.
    """
    n_killed = _n_killed(counters)
    notices = Notices(_write)
    standard_input = Input(words)
    early: list[int] = []
    # What is ignored here (nohup, a script's background jobs) stays ignored.
    before = {
        number: signal.signal(number, lambda number, frame: early.append(number))
        for number in _Child.SIGNALS
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        process = subprocess.Popen(
            words,
            env={
                **_without_streams(environ),
                **standard_input.variables,
                **output_of_this_process(),
            },
            stdin=standard_input.of_mpirun,
            stderr=subprocess.PIPE,
            start_new_session=True,
            preexec_fn=_ending_with_parent(),
        )
        watch = _ending_after_ranks(process)
        child = _Child(process, notices)
        for number in list(before):
            signal.signal(number, child.handle)
        for sent in early:
            child.handle(sent, None)
        before[signal.SIGTTIN] = signal.signal(signal.SIGTTIN, signal.SIG_IGN)
        standard_input.pass_on()
        assert process.stderr is not None
        while chunk := os.read(process.stderr.fileno(), 65536):
            notices.feed(chunk)
        notices.close()
        code = process.wait()
        if watch is not None:
            watch.wait()  # it ends with mpirun
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if notices.is_interrupted:
        if code not in (0, INTERRUPTED) and not notices.has_cause and child.n_interrupts == 1:
            _write(b"galaxy_mpi: the ranks were still starting; there is nothing to report\n")
        return INTERRUPTED
    code = code if code >= 0 else 128 - code
    if code == 128 + signal.SIGKILL and _n_killed(counters) > n_killed:
        _write(_NO_MEMORY)
    return code


class _Child:
    """What becomes of this process's signals."""

    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGTSTP, signal.SIGCONT)

    def __init__(self, process: "subprocess.Popen[bytes]", notices: Notices) -> None:
        self._process, self._notices = process, notices
        self.n_interrupts = 0

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Pass a signal on."""
        self.n_interrupts += number == signal.SIGINT
        if number == signal.SIGINT and not self._notices.is_interrupted:
            self._notices.is_interrupted = True
            _write(_ASKED)
            number = signal.SIGUSR1
        with suppress(ProcessLookupError):
            self._process.send_signal(number)
        if number == signal.SIGTSTP:  # Ctrl-Z suspends this process too, until SIGCONT
            os.kill(os.getpid(), signal.SIGSTOP)


def _without_streams(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without the streams of an outer run that started this one."""
    return {name: value for name, value in environ.items() if name not in (INPUT, OUTPUT)}


def _n_killed(counters: Sequence[Path]) -> int:
    found = 0
    for path in counters:
        with suppress(OSError, ValueError):  # another system's, or none
            counts = dict(line.split(maxsplit=1) for line in path.read_text().splitlines())
            found += int(counts.get("oom_kill", 0))
    return found


def _write(text: bytes) -> None:
    with suppress(OSError):  # nobody reads
        os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, text)


def _ending_after_ranks(process: "subprocess.Popen[bytes]") -> "subprocess.Popen[bytes] | None":
    """Start what ends mpirun if it stays; the ranks do so too, if they get that far."""
    words = [sys.executable, "-I", "-S", str(_LINGERING), str(process.pid), str(LINGERING_S)]
    if sys.platform != "linux":
        return None
    with suppress(OSError):  # no more processes or descriptors
        null = subprocess.DEVNULL
        return subprocess.Popen(
            [*words, "OMPI_COMM_WORLD_RANK"],
            stdin=null,
            stdout=null,
            stderr=null,
            start_new_session=True,
        )
    return None


def _ending_with_parent() -> Callable[[], object] | None:
    """Return what makes the kernel end the child when this process is killed (Linux)."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
