"""A small process that ends a launcher which stays after its run has failed.

    python -I -S lingering.py LAUNCHER SECONDS [VARIABLE=VALUE]

When the network between hosts is cut, mpirun asks the other hosts to end their ranks and waits for
an answer without a limit. A rank that ends a run starts this process, which lives longer than the
rank: after ``SECONDS`` it asks the launcher of this host to end (SIGTERM), and a little later it
kills it. If the launcher ends by itself, as it nearly always does, this process ends with it.

With a third argument, only the seconds count in which the launcher has no child with this variable,
which are the ranks: a request to end that reaches mpirun while ranks finalize may leave it waiting.

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

_KILL_S = 3.0
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
    waited_s = 0.0
    while waited_s < limit_s:
        if select.select([handle], [], [], min(_INTERVAL_S, limit_s))[0]:
            return 0
        is_busy = len(argv) > 2 and _has_child(launcher, argv[2].encode())
        # Nor those in which nobody reads what it prints.
        waited_s = 0.0 if is_busy or _is_blocked(launcher) else waited_s + _INTERVAL_S
    signal.pidfd_send_signal(handle, signal.SIGTERM)
    if not select.select([handle], [], [], _KILL_S)[0]:
        signal.pidfd_send_signal(handle, signal.SIGKILL)
    return 0


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
    for name in os.listdir("/proc"):
        # "PID (NAME) STATE PARENT ...": the name may hold anything, brackets too.
        words = _read(f"/proc/{name}/stat").rpartition(b")")[2].split() if name.isdigit() else []
        is_child = len(words) > 1 and int(words[1]) == parent and words[0] not in (b"Z", b"X")
        if is_child and variable in _read(f"/proc/{name}/environ").split(b"\0"):
            return True
    return False


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
