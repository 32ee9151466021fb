"""End a rank when its launcher is gone, so that a killed mpirun leaves no rank behind.

A killed launcher (mpirun, the launch daemon of a host, a Slurm job step) does not end its ranks,
and ranks that wait in shared memory or poll in MPI would do so forever. Two mechanisms prevent
this:

* the kernel kills this process when its parent ends (Linux, ``PR_SET_PDEATHSIG``): at once,
  and also during MPI's finalize, when Python's threads no longer run;
* a thread checks twice a second whether every process between the launcher and this one still has
  its parent. This also works for a launcher behind a shell script, on systems without the former,
  and if a thread of the launcher started the rank (the kernel would take the end of that thread
  for the end of the parent).

A process without a launcher is not affected; it may outlive its terminal.

The other way round, ranks make sure that the launcher ends when they have ended
(`end_launcher_later`, `end_launcher_after_ranks`): mpirun waits without a limit for hosts that it
cannot reach, and may block for ever when a rank connects to it while it ends.
"""

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path

from galaxy_mpi.mesh import lingering
from galaxy_mpi.mesh.ending import end_process

__all__ = [
    "ancestry",
    "end_launcher_after_ranks",
    "end_launcher_later",
    "end_with_launcher",
    "is_cut",
    "is_other_rank",
    "is_rank",
]

RANK_VARIABLES = ("OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK")
"""Variables in which launchers pass the rank; a launcher itself does not have them."""

SHELLS = (
    "sh",
    "bash",
    "dash",
    "ash",
    "zsh",
    "fish",
    "ksh",
    "csh",
    "tcsh",
    "tmux",
    "screen",
    "sshd",
)
"""Programs that people work in and no launcher is called; Python interpreters count too."""

LINGERING_S = 8.0
"""How long a launcher may stay after a rank has ended its run."""

_INTERVAL_S = 0.5
_THREAD = "lifeline"
_PR_SET_PDEATHSIG = 1


def end_with_launcher() -> None:
    """From now on, end this process when its launcher ends. A second call does nothing."""
    if any(thread.name == _THREAD for thread in threading.enumerate()):
        return
    if not any(name in os.environ for name in RANK_VARIABLES):
        return
    chain = ancestry(os.environ)
    _ask_kernel(chain[1])
    threading.Thread(target=_watch, args=(chain,), name=_THREAD, daemon=True).start()


def end_launcher_later() -> None:
    """Start a process that ends this rank's launcher if that stays for `LINGERING_S`.

    Only if the launcher is the parent of this process: a script between them may have other plans.
    The daemons of ``prte`` stay, because they serve other runs.
    """
    if _serves_one_run():
        with contextlib.suppress(Exception):  # this process is ending: nothing must stop that
            launcher = ancestry(os.environ)[-1]
            if launcher == os.getppid():
                _linger(launcher)


def end_launcher_after_ranks() -> None:
    """Start a process that ends this rank's launcher if that stays after its last rank has ended.

    For `LINGERING_S`, too; a script around a rank counts as the rank. A second call does nothing.
    """
    namespace = os.environ.get("PMIX_NAMESPACE", "")
    if namespace and namespace not in _watched and _serves_one_run():
        _watched.add(namespace)
        with contextlib.suppress(Exception):  # without memory or descriptors for it
            _linger(ancestry(os.environ)[-1], f"PMIX_NAMESPACE={namespace}")


_watched: set[str] = set()


def _serves_one_run() -> bool:
    """Return whether there is a launcher, and it has nothing to do after this run."""
    is_rank = any(name in os.environ for name in RANK_VARIABLES)
    is_shared = os.environ.get("PMIX_NAMESPACE", "").startswith("prte-")
    return sys.platform == "linux" and is_rank and not is_shared


def _linger(launcher: int, *variable: str) -> None:
    words = [sys.executable, "-I", "-S", lingering.__file__, str(launcher), str(LINGERING_S)]
    # Pipes of this rank that stayed open would keep the launcher waiting.
    null = [(os.POSIX_SPAWN_OPEN, n, os.devnull, os.O_RDWR, 0) for n in (0, 1, 2)]
    os.posix_spawn(words[0], [*words, *variable], os.environ, file_actions=null, setsid=True)


def ancestry(environ: Mapping[str, str], names: Iterable[str] = RANK_VARIABLES) -> list[int]:
    """Return the processes from this one up to its launcher.

    Parents with this rank's variables, such as a shell script around it, come in between. The first
    parent without them, or with an unreadable environment, is the launcher.
    """
    mine = {f"{name}={environ[name]}".encode() for name in names if name in environ}
    chain = [os.getpid(), os.getppid()]
    while mine & _variables(chain[-1]):
        parent = _parent(chain[-1])
        if parent is None or parent in chain:
            break
        chain.append(parent)
    return chain


def is_other_rank(environ: Mapping[str, str], names: Iterable[str] = RANK_VARIABLES) -> bool:
    """Return whether a launcher started this process as a rank that is not 0.

    A variable alone is no proof: if it was exported in a shell, or inherited from another run, a
    command without a launcher would end silently.

    Parameters
    ----------
    environ : mapping of str to str
    names : iterable of str
        Variables in which launchers pass a rank.
    """
    told = [name for name in names if environ.get(name, "0") != "0"]
    return bool(told) and not _is_shell(ancestry(environ, told)[-1])


def is_rank(environ: Mapping[str, str]) -> bool:
    """Return whether a launcher started this process as a rank, 0 or another."""
    told = [name for name in RANK_VARIABLES if name in environ]
    return bool(told) and not _is_shell(ancestry(environ, told)[-1])


def _is_shell(pid: int) -> bool:
    """Return whether a process is a program that people, not launchers, start commands from."""
    try:
        name = Path(f"/proc/{pid}/comm").read_text().strip().lstrip("-")
    except (OSError, ValueError):
        return False
    return name in SHELLS or name.startswith(("python", "pytest"))


def is_cut(chain: list[int]) -> bool:
    """Return whether a process of the chain has lost its parent (orphans get a new one)."""
    return any(_parent(child) != parent for child, parent in pairwise(chain))


def _watch(chain: list[int]) -> None:
    while not is_cut(chain):
        time.sleep(_INTERVAL_S)
    end_process()  # silently: the reader of its output is gone


def _ask_kernel(parent: int) -> None:
    """Have the kernel end this process with its parent, if the parent's main thread started it."""
    if sys.platform != "linux" or os.getpid() not in _children(parent):
        return
    try:
        library = ctypes.CDLL(None)
        library.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    except (OSError, AttributeError):
        return
    if os.getppid() != parent:  # the parent had already ended
        end_process()


def _children(pid: int) -> Iterable[int]:
    """Return the processes that the main thread of a process has started."""
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (OSError, ValueError):
        return []


def _parent(pid: int) -> int | None:
    """Return the parent of a process, None if unknown."""
    if pid == os.getpid():
        return os.getppid()
    try:
        # "PID (NAME) STATE PARENT ...": the name may hold anything, brackets too.
        return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return None


def _variables(pid: int) -> set[bytes]:
    try:
        return set(Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"))
    except OSError:
        return set()
