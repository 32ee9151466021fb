"""Time limits for the start and end of MPI, where the watchdog cannot run.

An import starts MPI and blocks Python's threads meanwhile. `limited` uses a thread of the
interpreter (faulthandler) that needs no lock: it prints a traceback and ends the process. The
launcher then ends the other ranks, including stopped ones.

32 interpreters that start on two cores may take a while, so the limit of a start is long. A rank
that is stopped can be distinguished from one that is slow, by another process: `no_rank_stopped`.
"""

import contextlib
import faulthandler
import os
import signal
import sys
from collections.abc import Iterator, Mapping

from galaxy_mpi.mesh import stopped
from galaxy_mpi.mesh.lifeline import RANK_VARIABLES, ancestry

__all__ = ["END_S", "START_S", "STOPPED_S", "limited", "no_rank_stopped", "place_on_host"]

START_S = 60.0
"""Time limit for all ranks to start and connect."""

STOPPED_S = 20.0
"""How long a rank may be stopped while ranks start and connect."""

END_S = 20.0
"""Time limit for all ranks to end, once all are ready to."""

_LOCAL_RANKS = ("OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID")
"""Variables in which launchers pass the number of a rank on its host."""


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Limit the time of the body; 0: no limit."""
    if seconds:
        _limit(seconds)
    try:
        yield
    finally:
        if seconds:
            faulthandler.cancel_dump_traceback_later()


def _limit(seconds: float) -> None:
    # If standard error is closed or has no descriptor, there is no limit, because the traceback
    # could not be written. Under a launcher it is a pipe.
    with contextlib.suppress(AttributeError, ValueError, OSError, RuntimeError):
        faulthandler.dump_traceback_later(seconds, exit=True, file=sys.stderr)


@contextlib.contextmanager
def no_rank_stopped() -> Iterator[None]:
    """End ranks of this host that are stopped for `STOPPED_S` while the body runs.

    The first two ranks of a host each start a process that watches (`galaxy_mpi.mesh.stopped`): one
    of the two may be stopped before it can. Other ranks do nothing, nor does one that no launcher
    started.
    """
    pipe = process = None
    if sys.platform == "linux" and place_on_host(os.environ) < 2:
        # Without memory or descriptors for it, `limited` remains.
        with contextlib.suppress(OSError, ValueError):
            pipe, process = _start_watching()
    try:
        yield
    finally:
        if pipe is not None and process is not None:
            os.close(pipe)
            with contextlib.suppress(OSError):
                os.kill(process, signal.SIGKILL)  # it may be stopped, and has nothing to clean up
                os.waitpid(process, 0)


def place_on_host(environ: Mapping[str, str]) -> int:
    """Return the number of this rank on its host, or in the run; a large one if it is no rank."""
    if not any(name in environ for name in RANK_VARIABLES):
        return sys.maxsize
    told = [environ[name] for name in (*_LOCAL_RANKS, *RANK_VARIABLES) if name in environ]
    return int(told[0]) if told[0].isdecimal() else sys.maxsize


def _start_watching() -> tuple[int, int]:
    """Start the process that watches; return the pipe whose closing ends it, and its number."""
    launcher = ancestry(os.environ)[-1]
    words = [sys.executable, "-I", "-S", stopped.__file__, str(launcher), str(STOPPED_S)]
    if "PMIX_NAMESPACE" in os.environ:
        words.append(f"PMIX_NAMESPACE={os.environ['PMIX_NAMESPACE']}")
    end, mine = os.pipe()
    try:
        actions = [
            (os.POSIX_SPAWN_DUP2, end, 0),
            (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
        ]
        return mine, os.posix_spawn(words[0], words, os.environ, file_actions=actions)
    except BaseException:
        os.close(mine)
        raise
    finally:
        os.close(end)
