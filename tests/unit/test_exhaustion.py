"""A process without memory says so, whatever its error became."""

import errno
import os
import subprocess
import sys

import pytest

from galaxy_mpi.failures import tell
from galaxy_mpi.health import Level, host
from galaxy_mpi.health.finding import Finding
from galaxy_mpi.mesh.exhaustion import lacks_memory


def caused(error, cause):
    error.__cause__ = cause
    return error


def during(error, context):
    error.__context__ = context
    return error


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        caused(ValueError("of nothing"), MemoryError()),
        during(KeyError("sha224"), during(ImportError(), MemoryError())),
    ],
)
def test_an_error_of_memory_is_known_whatever_it_became(error):
    assert lacks_memory(error)


def test_other_errors_are_not_of_memory():
    handled = during(ValueError("of nothing"), MemoryError())
    handled.__suppress_context__ = True  # raised `from None`
    circle = caused(ValueError(), KeyError())
    circle.__cause__.__cause__ = circle
    for error in (ValueError(), OSError(errno.ENOENT, "none"), handled, circle):
        assert not lacks_memory(error)


def test_a_process_that_gets_no_memory_lacks_it_whatever_the_error():
    assert lacks_memory(ValueError(), probe_bytes=2**62)


ENDS = """
import resource
from pathlib import Path
from galaxy_mpi.arguments import ArgumentParser
from galaxy_mpi.command import run_alone
from galaxy_mpi.mesh.uncaught import UncaughtErrors

def limit():
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**20, used + 2**20))

def fail(*_):
    limit()
    raise ValueError("of something else")
"""
ALONE = (
    "raise SystemExit(run_alone(ArgumentParser('galaxy_mpi.estimate', 'Of nothing.'), [], fail))"
)
SCRIPT = "import os; UncaughtErrors(3, os._exit); fail()"
THREAD = "import threading; UncaughtErrors(3, print); threading.Thread(target=fail).start()"


@pytest.mark.parametrize("ending", [ALONE, SCRIPT, THREAD])
@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not limit address space")
def test_the_last_words_of_a_process_without_memory(ending):
    ended = subprocess.run(
        [sys.executable, "-c", ENDS + ending],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        check=False,
    )
    assert "ValueError: of something else" in ended.stderr
    lines = [line for line in ended.stderr.splitlines() if "galaxy_mpi: doctor:" not in line]
    assert "out of memory; see `ulimit -v` and `free`" in lines[-1]
    assert ended.returncode == 1


def test_the_doctors_line_of_a_memory_error(monkeypatch, capfd):
    low = Finding("address space", Level.BAD, "limit 0.4 GiB per process", "`ulimit -v unlimited`")
    monkeypatch.setattr(host, "_address_space", lambda: low)
    tell(caused(ValueError("of nothing"), MemoryError()))
    lines = capfd.readouterr().err.splitlines()
    assert lines[0].endswith("failed:")
    assert lines[-2].startswith("galaxy_mpi: rank 0: out of memory; see `ulimit -v`")
    assert lines[-1] == (
        "galaxy_mpi: doctor: address space: limit 0.4 GiB per process; `ulimit -v unlimited`"
    )
