"""The recipe for Slurm on a Slurm that the test makes; skipped where it is not installed."""

import subprocess

import pytest

from tests.command.decode_command import LIMIT_S, ROOT, environment


def test_sbatch_gives_the_tokens_and_the_device_time_of_mpirun():
    words = ["sh", ROOT / "launch" / "slurm" / "try.sh", "4", "--layers", "2"]
    done = subprocess.run(
        [*words, "--max-new-tokens", "4"],
        env=environment(),
        capture_output=True,
        text=True,
        errors="replace",
        timeout=LIMIT_S,
        check=False,
    )
    if done.returncode == 77:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1] == "same tokens, same device time"
    assert {"galaxy0", "galaxy1"} <= set(lines)
