"""Checks of the hosts of a hostfile, from the first one: names, routes, ssh, interfaces."""

import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from galaxy_mpi.errors import ConfigError
from galaxy_mpi.health.finding import Finding, Level

__all__ = ["network_findings", "slots_of"]

SSH_PORT = 22

LIMIT_S = 3.0
"""Time limit for an answer of a host."""


def network_findings(
    hostfile: Path,
    n_ranks: int,
    *,
    port: int = SSH_PORT,
    interfaces: Path = Path("/sys/class/net"),
) -> list[Finding]:
    """Check the hosts of a hostfile, for runs of ``n_ranks`` ranks.

    Parameters
    ----------
    hostfile : Path
    n_ranks : int
    port : int
        Where ssh answers.
    interfaces : Path
        Where the kernel lists the network interfaces.

    Raises
    ------
    ConfigError
        If the file cannot be read or names no host.
    """
    slots = slots_of(hostfile)
    with ThreadPoolExecutor(16) as pool:
        hosts = list(pool.map(lambda name: _host(name, port), slots))
    return [_slots(slots, n_ranks), *hosts, _interfaces(interfaces)]


def slots_of(hostfile: Path) -> dict[str, int]:
    """Return the hosts of a hostfile and their slots; a host that has none said has 1."""
    try:
        lines = hostfile.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise ConfigError(f"--hostfile {hostfile} cannot be read: {error.strerror}") from None
    slots: dict[str, int] = {}
    for line in lines:
        words = line.partition("#")[0].split()
        if words:
            name = words[0].rpartition("@")[2]
            said = [word[6:] for word in words[1:] if word.startswith("slots=")]
            number = int(said[-1]) if said and said[-1].isdecimal() and len(said[-1]) < 7 else 1
            slots[name] = slots.get(name, 0) + number
    if not slots:
        raise ConfigError(f"--hostfile {hostfile} names no host; write lines like 'host0 slots=16'")
    return slots


def _slots(slots: dict[str, int], n_ranks: int) -> Finding:
    total = sum(slots.values())
    found = f"{total} on {len(slots)} hosts, for {n_ranks} ranks"
    if total < n_ranks:
        return Finding("slots", Level.NOTE, found, "raise slots=, or use mpirun --oversubscribe")
    return Finding("slots", Level.GOOD, found)


def _host(name: str, port: int) -> Finding:
    what = f"host {name}"
    try:
        family, _, _, _, address = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError):
        advice = "add it to the name service, or to /etc/hosts of every host"
        return Finding(what, Level.BAD, "has no address", advice)
    told = f"{address[0]}"
    is_this = name in (socket.gethostname(), "localhost")
    if told.startswith("127.") and not is_this:
        advice = "correct /etc/hosts: other hosts cannot reach this address"
        return Finding(what, Level.BAD, f"{told} is the loopback address", advice)
    with socket.socket(family, socket.SOCK_STREAM) as tried:
        tried.settimeout(LIMIT_S)
        try:
            tried.connect(address)
        except OSError as error:
            if is_this:  # mpirun needs no ssh to its own host
                return Finding(what, Level.GOOD, f"{told}, this host")
            reason = "no answer" if isinstance(error, TimeoutError) else str(error.strerror)
            advice = "start sshd there, open the firewall, or name another agent (docs/hosts.md)"
            return Finding(what, Level.BAD, f"{told} port {port}: {reason}", advice)
        return Finding(what, Level.GOOD, f"{told}, ssh answers, reached from {_own(tried)}")


def _own(connected: socket.socket) -> str:
    return str(connected.getsockname()[0])


def _interfaces(folder: Path) -> Finding:
    names = _up(folder)
    found = " ".join(names) or "none is up"
    if len(names) > 1:
        advice = "if ranks do not connect, name one: mpirun --mca btl_tcp_if_include NAME"
        return Finding("interfaces", Level.NOTE, found, advice)
    return Finding("interfaces", Level.GOOD if names else Level.BAD, found)


def _up(folder: Path) -> Sequence[str]:
    """Return the network interfaces that are up, without the loopback."""
    up = []
    for state in sorted(folder.glob("*/operstate")):
        try:
            is_up = state.read_text().strip() in ("up", "unknown")
        except OSError:
            continue
        if is_up and state.parent.name != "lo":
            up.append(state.parent.name)
    return up
