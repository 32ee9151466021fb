"""A small process that ends a launcher which stays after its run has failed.

    python -I -S lingering.py LAUNCHER SECONDS

When the network between hosts is cut, mpirun asks the other hosts to end their ranks and waits for
an answer without a limit. A rank that ends a run starts this process, which lives longer than the
rank: after ``SECONDS`` it asks the launcher of this host to end (SIGTERM), and a little later it
kills it. If the launcher ends by itself, as it nearly always does, this process ends with it.

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
    for number, seconds in ((signal.SIGTERM, limit_s), (signal.SIGKILL, _KILL_S)):
        if select.select([handle], [], [], seconds)[0]:
            return 0
        signal.pidfd_send_signal(handle, number)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
