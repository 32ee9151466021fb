"""Runs over hosts that are network namespaces; skipped where none can be made."""

import shutil
import subprocess

import pytest

from tests.command.decode_command import nobody_is_left, script

SHORT = ("--layers", "2", "--max-new-tokens", "4")


def over_hosts(hosts, ranks, *options, **environ):
    """Return what the script did; names of namespaces that it has left are an error."""
    before = namespaces()
    done = script("two_hosts.sh", str(hosts), str(ranks), *SHORT, *options, **environ)
    assert nobody_is_left()
    assert namespaces() <= before
    return done


def namespaces():
    ip = shutil.which("ip", path="/usr/sbin:/usr/bin:/sbin:/bin")
    if ip is None:
        return set()
    listed = subprocess.run([ip, "netns"], capture_output=True, text=True, check=False).stdout
    return {line.split()[0] for line in listed.splitlines() if line.startswith("gm")}


@pytest.mark.parametrize(("hosts", "ranks"), [(2, 4), (4, 4)])
def test_hosts_give_the_tokens_and_the_device_time_of_one(hosts, ranks):
    done = over_hosts(hosts, ranks)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1] == "same tokens, same device time"
    # Each host name has come, from as many ranks: namespaces of their own, not one host.
    named = [line.split() for line in lines if " gm" in line]
    assert [int(count) for count, _ in named] == [ranks // hosts] * hosts


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("kill step 3", ""),
        ("stop step 3", "decode step 2"),
        ("raise step 0", "RuntimeError: asked to fail"),
        ("launcher-kill step 3", "Remote daemon"),  # that of the other host: mpirun ends with 0
        ("launcher-kill step 0", ""),
        ("cut step 3", "decode step 2"),  # a wait ends the ranks, and then both launchers
    ],
)
def test_a_fault_on_one_host_ends_the_ranks_of_both(fault, said):
    done = over_hosts(2, 4, FAULT=fault)
    assert done.returncode != 0 or "Remote daemon" in done.stderr
    assert said in done.stderr
    assert "all gone" in done.stdout


def test_mpirun_notices_a_cut_network_before_a_wait_ends():
    done = over_hosts(2, 4, FAULT="cut step 3", WAIT_TIMEOUT="60")
    assert "PRTE has lost communication with a remote daemon" in done.stderr
    assert "all gone" in done.stdout
