"""What an environment that nobody tidied does to a command: nothing in silence, no traceback."""

import os
import subprocess
import sys

import pytest

from galaxy_mpi.mesh.lifeline import is_other_rank
from tests.command.decode_command import MPIRUN, run

ESTIMATE = [sys.executable, "-m", "galaxy_mpi.estimate", "--layers", "1", "--new-tokens", "1"]


def estimate(command=ESTIMATE, **environ):
    env = {name: value for name, value in os.environ.items() if not name.startswith("PMI")}
    return subprocess.run(
        command, env=env | environ, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize("name", ["PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK"])
def test_a_rank_that_is_left_over_changes_nothing(name):
    told = estimate(**{name: "1"})
    assert told.returncode == 0
    assert "decode step" in told.stdout
    shell = " ".join(ESTIMATE)
    assert "decode step" in estimate(["bash", "-c", f"export {name}=1; {shell}"]).stdout


def test_under_mpirun_rank_0_alone_speaks():
    env = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    for command in (ESTIMATE, ["sh", "-c", " ".join(ESTIMATE) + "; exit $?"]):
        told = estimate([str(MPIRUN), "-n", "2", *command], **env)
        assert told.returncode == 0
        assert told.stdout.count("system, precision") == 1


def test_a_job_number_that_is_left_over_hides_no_error():
    told = run(1, "--mesh", "1x1", "--page-size", "0", SLURM_PROCID="1")
    assert "--page-size must be at least 1, got 0" in told.stderr
    assert told.returncode != 0


def test_no_rank_is_no_other_rank():
    assert not is_other_rank({})
    assert not is_other_rank({"PMI_RANK": "0"})


def test_without_a_home_there_is_a_line_or_a_run():
    told = run(1, "--mesh", "1x1", "--page-size", "0", HOME="")
    assert "Traceback" not in told.stderr


@pytest.mark.parametrize("limit", ["-v 8000000", "-f 1000000"])
def test_a_run_reserves_no_more_than_it_needs(limit):
    """Limits in KiB; a rank once asked for 4 GiB of address space and of shared memory."""
    command = (
        f"ulimit {limit}; exec {MPIRUN} -n 2 {sys.executable} -m galaxy_mpi.decode "
        f"--mesh 1x2 --max-new-tokens 1 --weights-cache off --transport shared"
    )
    env = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    told = estimate(["bash", "-c", command], **env)
    assert told.returncode == 0, told.stderr
    assert "host: decode step" in told.stdout or "host: prefill" in told.stdout
