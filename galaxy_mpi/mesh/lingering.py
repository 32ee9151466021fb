"""A small process that ends a launcher which stays after its run has ended.

    python -I -S lingering.py LAUNCHER SECONDS [VARIABLE[=VALUE]]

After ``SECONDS`` it asks the launcher of this host to end (SIGTERM), and a little later it kills
it. If the launcher ends by itself, as it nearly always does, this process ends with it.

When the network between hosts is cut, mpirun asks the other hosts to end their ranks and waits for
an answer without a limit. A rank that ends a run starts this process, which lives longer than the
rank.

With a third argument, only the seconds count in which the launcher has no child with this variable,
which are the ranks. The first ranks of a host and galaxy-mpi start this process when a run starts,
for two faults of Open MPI 5.0.11: a request to end that reaches mpirun while ranks finalize may
leave it waiting; and when a rank connects to mpirun while that ends the run after an error of
another rank, mpirun may lock a mutex that it has freed, and then even ignores requests to end.
Seconds before the first child do not count, however long the launcher takes.

It imports nothing of the package, so that it starts at once.
"""

import os
import select
import signal
import sys

__all__ = ["LAUNCHERS", "main"]

LAUNCHERS = (
    "mpirun",
    "mpiexec",
    "mpiexec.hydra",
    "hydra_pmi_proxy",
    "orterun",
    "orted",
    "prterun",
    "prted",
)
"""Names of programs that serve one run, and have nothing left to do when it has failed."""

_INTERVAL_S = 0.5

_KILL_S = 2.0
"""From the request to the kill."""


def main(argv: list[str]) -> int:
    """Wait for the launcher, and end it if need be; return the exit code."""
    launcher, limit_s = int(argv[0]), float(argv[1])
    try:
        handle = os.pidfd_open(launcher)  # no other process can take its number now
        with open(f"/proc/{launcher}/comm", encoding="utf-8", errors="replace") as file:
            is_launcher = file.read().strip() in LAUNCHERS
    except (OSError, AttributeError):
        return 0
    if not is_launcher:
        return 0
    waited_s, has_begun = 0.0, len(argv) < 3 or "=" in argv[2]
    while waited_s < limit_s:
        if select.select([handle], [], [], min(_INTERVAL_S, limit_s))[0]:
            return 0
        has_begun = has_begun or bool(_children(launcher))
        is_busy = len(argv) > 2 and _has_child(launcher, argv[2].encode())
        # Nor those in which nobody reads what it prints.
        counts = has_begun and not is_busy and not _is_blocked(launcher)
        # It may need time for a core, so seconds in which it works count less.
        spent_s = _INTERVAL_S / 4 if counts and _runs(launcher) else _INTERVAL_S
        waited_s = waited_s + spent_s if counts else 0.0
    signal.pidfd_send_signal(handle, signal.SIGTERM)
    if not select.select([handle], [], [], _KILL_S)[0]:
        signal.pidfd_send_signal(handle, signal.SIGKILL)
    return 0


def _runs(pid: int) -> bool:
    """Return whether a thread of a process is running, is about to, or waits for a disk."""
    for thread in _listed(f"/proc/{pid}/task"):
        # "PID (NAME) STATE PARENT ...": the name may hold anything, brackets too.
        words = _read(f"/proc/{pid}/task/{thread}/stat").rpartition(b")")[2].split()
        if words and words[0] in (b"R", b"D"):
            return True
    return False


def _is_blocked(pid: int) -> bool:
    """Return whether a process's output cannot be written at the moment: a pager, a slow ssh."""
    for number in (1, 2):
        try:
            flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY
            stream = os.open(f"/proc/{pid}/fd/{number}", flags)
        except OSError:
            continue
        try:
            if not select.select([], [stream], [], 0)[1]:
                return True
        finally:
            os.close(stream)
    return False


def _has_child(parent: int, variable: bytes) -> bool:
    """Return whether a process has a living child with this in its environment."""
    name = variable if b"=" in variable else variable + b"="
    for pid in _children(parent):
        environ = _read(f"/proc/{pid}/environ").split(b"\0")  # that of a dead child is empty
        if any(each == variable or each.startswith(name) for each in environ):
            return True
    return False


def _children(parent: int) -> list[int]:
    """Return the children of a process, also those that have ended and still have a number."""
    threads = f"/proc/{parent}/task"
    lists = [f"{threads}/{thread}/children" for thread in _listed(threads)]
    if any(map(os.path.exists, lists)):
        return [int(word) for path in lists for word in _read(path).split()]
    # Some kernels make no such lists.
    return [int(pid) for pid in os.listdir("/proc") if pid.isdigit() and _parent(pid) == parent]


def _parent(pid: str) -> int:
    words = _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    return int(words[1]) if len(words) > 1 else 0


def _listed(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
