"""The recipe for Slurm on a Slurm that the test makes; skipped where it is not installed."""

from tests.command.decode_command import script


def test_sbatch_gives_the_tokens_and_the_device_time_of_mpirun():
    done = script("slurm/try.sh", "4", "--layers", "2", "--max-new-tokens", "4")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1] == "same tokens, same device time"
    assert {"galaxy0", "galaxy1"} <= set(lines)
