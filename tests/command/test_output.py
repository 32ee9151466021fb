"""Standard output of commands in one process: closed early, full, or interrupted."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.command.decode_command import LIMIT_S, environment, nobody_is_left

DECODE = ["decode", "--mesh", "2x2", "--chips-per-rank", "4", "--batch", "4", "--layers", "1"]
DECODE += ["--max-new-tokens", "4", "--quiet"]
OTHERS = [
    ["estimate"],
    ["program", "--mesh", "2x2"],
    ["compare", "--timing-only", "--mesh", "8x4"],
    ["validate"],
    ["decode", "--help"],
    DECODE,
]


def words(arguments):
    return [sys.executable, "-m", "galaxy_mpi", *arguments]


def ended(arguments, stdout=subprocess.PIPE):
    """Return how a command ends."""
    return subprocess.run(
        words(arguments),
        env=environment(),
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


@pytest.mark.parametrize("arguments", OTHERS, ids=lambda words: " ".join(words[:2]))
def test_a_full_disk_behind_standard_output_is_one_line(arguments):
    with open("/dev/full", "w") as full:
        found = ended(arguments, full)
    assert found.returncode == 2
    told = [line for line in found.stderr.splitlines() if "standard output cannot" in line]
    assert len(told) == 1
    assert "Traceback" not in found.stderr


def test_a_reader_that_leaves_does_not_change_the_exit_code(tmp_path):
    """``galaxy-mpi decode --golden FILE | head -1`` in CI must still fail."""
    golden = tmp_path / "golden.json"
    assert ended([*DECODE, "--json", str(golden)]).returncode == 0
    report = json.loads(golden.read_text())
    report["tokens"][0][0] += 1
    golden.write_text(json.dumps(report))
    for arguments, code in (([*DECODE, "--golden", str(golden)], 1), (["estimate"], 0)):
        reading, writing = os.pipe()
        os.close(reading)
        found = ended(arguments, writing)
        os.close(writing)
        assert found.returncode == code, found.stderr
        assert "Traceback" not in found.stderr
        assert "BrokenPipe" not in found.stderr


@pytest.mark.parametrize(
    "long",
    [
        ["traffic", "--model", "llama3-70b", "--rate", "4", "--requests", "10000"],
        ["bench", "--mesh", "1x2", "--chips-per-rank", "2", "--turns", "1000"],
        ["bench", "--mesh", "1x2", "--allow-run-as-root", "--turns", "1000"],
    ],
    ids=["traffic", "bench in one process", "bench on ranks"],
)
def test_an_interrupt_ends_a_command_without_a_traceback(long):
    started = subprocess.Popen(
        words(long), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    time.sleep(5)
    started.send_signal(signal.SIGINT)
    _, told = started.communicate(timeout=LIMIT_S)
    assert started.returncode == 130, told
    assert "galaxy_mpi: " in told
    assert "interrupted" in told
    assert "Traceback" not in told
    assert nobody_is_left()


def refused(*arguments):
    """Return what a command says that ends with an error of the user."""
    found = ended([*DECODE, *arguments])
    assert found.returncode == 2
    assert found.stdout == ""
    (told,) = (line for line in found.stderr.splitlines() if line.startswith("galaxy_mpi: "))
    return told


def test_a_run_is_not_compared_with_itself_or_a_report(tmp_path):
    told = refused("--collectives", "ring", "--against", "performance")
    assert "--against performance: that would be the same run" in told
    assert told.endswith("--against galaxy")
    report = tmp_path / "run.json"
    report.write_text(json.dumps({"schema_version": 2, "tokens": [[1]]}))
    assert refused("--against", str(report)).endswith(f"use --golden {report}")


def test_standard_output_is_no_file_for_a_report():
    assert refused("--json", "-").startswith("galaxy_mpi: --json -: standard output has the")
