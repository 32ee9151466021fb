"""A collective that one rank gets wrong ends the run, in time, with a line that names both sides.

Chips of a 2x2 mesh; rank 1 is chip (0, 1), whose neighbours are (0, 0) and (1, 1).
"""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from galaxy_mpi.mesh.planes import HOSTS_VARIABLE

SCRIPT = Path(__file__).parent / "crossings.py"


def run(kind, fault):
    transport, hosts = ("auto", "2") if kind == "hosts" else (kind, "1")
    began = time.monotonic()
    done = subprocess.run(
        ["mpirun", "-n", "4", "--oversubscribe", sys.executable, str(SCRIPT), transport, fault],
        env={**os.environ, HOSTS_VARIABLE: hosts, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stderr.replace("\0", ""), time.monotonic() - began


@pytest.mark.parametrize("kind", ["auto", "mpi", "hosts"])
def test_without_a_fault_the_run_ends_well(kind):
    code, errors, _ = run(kind, "none")
    assert (code, errors) == (0, "")


@pytest.mark.parametrize("kind", ["auto", "mpi", "hosts"])
@pytest.mark.parametrize(
    ("fault", "mine", "other"),
    [
        ("order", "QKV within a row, 2048 bytes", "FF1 within a row, 200000 bytes"),
        ("shape", "FF1 within a row, 200000 bytes", "FF1 within a row, 400000 bytes"),
        ("box", "GATE within a row, 800 bytes", "GATE within a row, 1600 bytes"),
    ],
)
def test_labels_that_differ_are_named_with_their_chips(kind, fault, mine, other):
    code, errors, seconds = run(kind, fault)
    assert code != 0
    right = rf"chip \(0, 0\) is in {mine}, but chip \(0, 1\) is in {other}"
    wrong = rf"chip \(0, 1\) is in {other}, but chip \(0, 0\) is in {mine}"
    assert re.search(f"ProgramError: decode step 7: ({right}|{wrong})", errors), errors
    assert seconds < 20


@pytest.mark.parametrize("kind", ["auto", "mpi"])
@pytest.mark.parametrize(
    ("fault", "places"),
    [
        ("kinds", ["(0, 0) in FF1 within a row", "(0, 1) in GATE within a row"]),
        ("omitted table", ["(0, 0) in FF1 within a row", "(0, 1) in GATE within a row"]),
        ("report", ["(0, 1) in a gather to rank 0", "in QKV within a row, 2048 bytes"]),
    ],
)
def test_ranks_that_wait_for_each_other_are_found_out(kind, fault, places):
    code, errors, seconds = run(kind, fault)
    assert code != 0
    if fault == "report":  # a message of a report needs nobody at the other end
        places = ["chip (0, 0)", "chip (0, 1)"]
    assert "decode step 7: " in errors
    for place in places:
        assert place in errors, errors
    assert seconds < 20


@pytest.mark.parametrize("kind", ["auto", "mpi", "hosts"])
def test_a_rank_that_leaves_out_boxes_is_named(kind):
    code, errors, seconds = run(kind, "omitted boxes")
    assert code != 0
    assert "(0, 1)" in errors
    assert re.search("FF2 within a column|GATE within a row", errors), errors
    assert seconds < 20


def test_one_line_names_who_does_not_come():
    code, errors, seconds = run("auto", "late")
    assert code != 0
    lines = [line for line in errors.splitlines() if line.startswith("galaxy_mpi: ")]
    assert lines[0] == (
        "galaxy_mpi: decode step 7: chip (0, 0) waited 4 s for chip (0, 1) in "
        "QKV within a row, 2048 bytes; did that rank end or stop?"
    )
    assert seconds < 20
