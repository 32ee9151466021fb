"""A rank that decodes, and has a fault: ``... -m galaxy_mpi.faults.rank FAULT MOMENT RANK ...``.

What follows are the arguments of `galaxy_mpi.decode`. The time of the fault goes to the file that
the environment names, for the laboratory that waits outside.
"""

import gc
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from galaxy_mpi.blas import one_thread_per_rank

if __name__ == "__main__":
    one_thread_per_rank()

from galaxy_mpi import decode
from galaxy_mpi.errors import ConfigError
from galaxy_mpi.faults.case import BEGAN_VARIABLE, MODEL_VARIABLE
from galaxy_mpi.faults.moments import Trap
from galaxy_mpi.mesh import guard, lifeline, mpi, watchdog
from galaxy_mpi.mesh.lifeline import RANK_VARIABLES, ancestry
from galaxy_mpi.prefetch import Prefetcher, feeds

__all__ = ["WHAT", "main"]

WHAT = "asked to fail"
"""Said by errors that are asked for."""

_LONG_S = 600.0

_SIGNALS = {
    "kill": signal.SIGKILL,
    "stop": signal.SIGSTOP,
    "term": signal.SIGTERM,
    "int": signal.SIGINT,
    "hup": signal.SIGHUP,
    "segv": signal.SIGSEGV,
}

_ERRORS: dict[str, type[BaseException]] = {
    "raise": RuntimeError,
    "user": ConfigError,
    "interrupt": KeyboardInterrupt,
    "exit": SystemExit,
    "panic": BaseException,
    "memory": MemoryError,
}


def main(argv: list[str]) -> int:
    """Set the fault if it is this rank's, and decode."""
    fault, moment, rank, *arguments = argv
    mine = next((os.environ[n] for n in RANK_VARIABLES if n in os.environ), "0")
    for module in (mpi, guard):  # so that the laboratory need not wait for a minute
        vars(module).update(START_S=15.0, END_S=10.0)
    guard.STOPPED_S = 5.0
    lifeline.LINGERING_S = 3.0
    watchdog._PATIENT_S = 5.0
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup or the parent process may ignore it
    if rank in (mine, "all"):
        _set(fault, moment)
    return decode.main(arguments)


def _set(fault: str, moment: str) -> None:
    if fault in ("prefetcher", "codec", "watchdog"):
        Trap(moment, lambda crossing: _break(fault)).set()
    else:
        Trap(moment, lambda crossing: _act(fault, crossing)).set()


def _act(fault: str, crossing: object) -> Callable[[], None] | None:
    """Do what the fault is; return what replaces a crossing."""
    _note()
    if fault.startswith("launcher-"):
        os.kill(ancestry(os.environ)[-1], _SIGNALS[fault.removeprefix("launcher-")])
        # At the start no watchdog runs yet, so the run must fail by itself.
        time.sleep(1.0 if crossing == "start" else _LONG_S)
    elif fault in _SIGNALS:
        os.kill(os.getpid(), _SIGNALS[fault])
    elif fault in _ERRORS:
        raise _ERRORS[fault](WHAT)
    elif fault == "thread":
        threading.Thread(target=_raise).start()
        time.sleep(_LONG_S)
    elif fault == "sleep":
        time.sleep(_LONG_S)
    elif fault == "spin":
        until = time.monotonic() + _LONG_S
        while time.monotonic() < until:
            pass
    elif fault == "cut":
        os.system("ip link set eth0 down")  # of the network namespace of this rank
    elif fault == "clock":
        now = time.time
        setattr(time, "time", lambda: now() - 86_400.0)  # noqa: B010
    elif fault == "quit":
        os._exit(0)
    elif fault == "descriptors":
        spare = 0 if crossing is None else 2  # in the middle of a run, those of its files
        n = len(os.listdir("/proc/self/fd")) - 1 + spare  # without the one that lists
        resource.setrlimit(resource.RLIMIT_NOFILE, (n, n))
    elif fault == "no-memory":
        used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (used + 2**16, used + 2**16))
    elif fault in ("truncate", "delete", "replace"):
        _spoil(fault, Path(os.environ[MODEL_VARIABLE]) / "model.safetensors")
    elif fault == "omit":
        return _nothing
    elif fault == "twice":
        return lambda: _twice(crossing)
    elif fault != "none":
        raise ValueError(f"no fault {fault!r}")
    return None


def _break(fault: str) -> None:
    """Make a thread of this process fail the next time that it does its work."""
    if fault == "prefetcher":
        setattr(Prefetcher, "_count", _raise_noted)  # noqa: B010
    elif fault == "codec":
        for item in gc.get_objects():
            if isinstance(item, feeds._Item):
                object.__setattr__(item, "unpack", _raise_noted)
    else:
        setattr(watchdog.Watchdog, "_verdict", _raise_noted)  # noqa: B010
        time.sleep(_LONG_S)  # it looks once a second


def _raise_noted(*_: object, **__: object) -> None:
    _note()
    _raise()


def _raise() -> None:
    raise RuntimeError(WHAT)


def _twice(crossing: object) -> None:
    assert callable(crossing)
    crossing()
    crossing()


def _nothing() -> None:
    """Leave out what was to happen."""


def _spoil(fault: str, file: Path) -> None:
    if fault == "truncate":
        os.truncate(file, 4096)
    else:
        file.unlink()
        if fault == "replace":
            file.mkdir()


def _note() -> None:
    path = os.environ.get(BEGAN_VARIABLE)
    if path:
        Path(path).write_text(str(time.time()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
