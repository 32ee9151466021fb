"""Standard output that is opened a second time, past mpirun."""

import os
import subprocess
import sys

import pytest

from galaxy_mpi.streams import OUTPUT

WRITE = """
import os
from galaxy_mpi.streams import write_past_mpirun
write_past_mpirun(os.environ)
print("blocking" if os.get_blocking(1) else "not blocking")
"""
LIMIT_S = 60


@pytest.mark.parametrize("is_read", [True, False])
def test_a_named_pipe_is_written_to_if_it_is_read_and_waited_for_never(tmp_path, is_read):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK) if is_read else None
    written = subprocess.run(
        [sys.executable, "-c", WRITE],
        env={**os.environ, OUTPUT: str(path)},
        capture_output=True,
        timeout=LIMIT_S,
        check=True,
    ).stdout
    if reader is not None:
        assert written == b""
        written = os.read(reader, 100)
        os.close(reader)
    assert written == b"blocking\n"


@pytest.mark.parametrize("environ", [{}, {OUTPUT: "/nowhere"}])
def test_output_that_cannot_be_opened_stays(environ):
    done = subprocess.run(
        [sys.executable, "-c", WRITE],
        env={**os.environ, **environ},
        capture_output=True,
        timeout=LIMIT_S,
        check=True,
    )
    assert done.stdout == b"blocking\n"
