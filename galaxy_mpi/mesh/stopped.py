"""A small process that ends ranks that are stopped (SIGSTOP) while a run starts.

    python -I -S stopped.py LAUNCHER SECONDS [VARIABLE=VALUE]

While MPI starts, it holds the interpreter's lock, so no thread of a rank can look at the others;
this process can. It kills a rank that has been in state T of ``/proc`` for ``SECONDS``, and the
launcher then ends all. A rank that is slow is in another state and is left alone, so this limit
can be shorter than that of a start. It ends with the rank that started it.

With a third argument, which tells runs apart, only processes with this variable are looked at.

Its standard input is a pipe that the rank holds. It imports nothing of the package, so that it
starts at once.
"""

import os
import select
import signal
import sys

__all__ = ["main", "stopped_descendants"]

_INTERVAL_S = 1.0


def main(argv: list[str]) -> int:
    """Watch until standard input ends; return the exit code."""
    launcher, limit_s = int(argv[0]), float(argv[1])
    interval_s = min(_INTERVAL_S, limit_s / 4)
    stopped_s: dict[int, float] = {}
    while not select.select([0], [], [], interval_s)[0]:
        found = stopped_descendants(launcher, argv[2].encode() if len(argv) > 2 else b"")
        # Seconds are counted, so that the time in which this process is stopped too does not count.
        stopped_s = {pid: stopped_s.get(pid, 0.0) + interval_s for pid in found}
        for pid in [pid for pid, seconds in stopped_s.items() if seconds >= limit_s]:
            _end(pid, found[pid], limit_s)
            del stopped_s[pid]
    return 0


def stopped_descendants(launcher: int, variable: bytes = b"") -> dict[int, str]:
    """Return the stopped ranks that descend from a process, with what they are.

    Without ``variable`` (``NAME=VALUE`` of their environment) all ranks are meant.

    Empty if the launcher itself is stopped: someone has suspended the whole run.
    """
    states: dict[int, str] = {}
    parents: dict[int, int] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            # "PID (NAME) STATE PARENT ...": the name may hold anything, brackets too.
            words = _read(f"/proc/{name}/stat").rpartition(b")")[2].split()
            if len(words) > 1:
                states[int(name)], parents[int(name)] = words[0].decode(), int(words[1])
    if states.get(launcher) == "T":
        return {}
    found = {}
    for pid, state in states.items():
        if state == "T" and _descends(pid, launcher, parents):
            environ = _read(f"/proc/{pid}/environ").split(b"\0")
            what = _described(pid, environ)
            if what and (not variable or variable in environ):
                found[pid] = what
    return found


def _descends(pid: int, ancestor: int, parents: dict[int, int]) -> bool:
    for _ in range(len(parents)):  # the table is no snapshot, so it might hold a circle
        pid = parents.get(pid, 0)
        if pid == ancestor:
            return True
        if pid <= 1:
            return False
    return False


def _described(pid: int, environ: list[bytes]) -> str:
    """Return "rank 3 (process 1234)"; empty if it is no rank."""
    for variable in environ:
        name, _, value = variable.partition(b"=")
        if name in (b"OMPI_COMM_WORLD_RANK", b"PMIX_RANK", b"PMI_RANK"):
            return f"rank {value.decode(errors='replace')} (process {pid})"
    return ""


def _end(pid: int, what: str, limit_s: float) -> None:
    line = (
        f"galaxy_mpi: {what} on {os.uname().nodename} has been stopped for {limit_s:.0f} s while "
        f"the run starts; ending the run\n"
    )
    try:
        os.kill(pid, signal.SIGKILL)
        os.write(2, line.encode())
    except OSError:
        pass


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
