"""The process that ends a launcher which stays."""

import os
import shutil
import signal
import subprocess
import sys

import pytest

from galaxy_mpi.cli import supervise
from galaxy_mpi.mesh import lingering


@pytest.mark.parametrize(("name", "ends"), [("mpirun", True), ("bash", False)])
def test_a_launcher_that_stays_is_ended_and_another_program_is_not(name, ends, tmp_path):
    program = tmp_path / name
    program.symlink_to(shutil.which("sleep"))
    with subprocess.Popen([program, "600"]) as stays:
        words = [sys.executable, "-I", "-S", lingering.__file__, str(stays.pid), "0.1"]
        assert subprocess.run(words, timeout=30, check=False).returncode == 0
        if not ends:
            assert stays.poll() is None
            stays.kill()
        assert stays.wait(timeout=30) == (-signal.SIGTERM if ends else -signal.SIGKILL)


def test_nothing_waits_for_a_launcher_that_ends_by_itself(tmp_path):
    program = tmp_path / "mpirun"
    program.symlink_to(shutil.which("sleep"))
    with subprocess.Popen([program, "1"]) as ends:
        words = [sys.executable, "-I", "-S", lingering.__file__, str(ends.pid), "600"]
        assert subprocess.run(words, timeout=30, check=False).returncode == 0
        assert ends.wait(timeout=30) == 0


def test_a_launcher_whose_output_nobody_reads_is_left_alone(tmp_path):
    program = tmp_path / "mpirun"
    program.symlink_to(shutil.which("yes"))
    with subprocess.Popen([program], stdout=subprocess.PIPE) as launcher:
        words = [sys.executable, "-I", "-S", lingering.__file__, str(launcher.pid), "0.1"]
        with subprocess.Popen(words) as watch:
            with pytest.raises(subprocess.TimeoutExpired):
                watch.wait(timeout=2.5)
            assert launcher.poll() is None
            launcher.stdout.close()  # its next write ends it
            assert watch.wait(timeout=30) == 0


def test_a_launcher_with_ranks_is_left_alone_until_the_last_has_ended(tmp_path):
    program = tmp_path / "prterun"
    program.write_text(
        "#!/bin/sh\nPMIX_NAMESPACE=mine sleep 600 & echo $!\nwhile sleep 0.1; do :; done\n"
    )
    program.chmod(0o755)
    with subprocess.Popen([program], stdout=subprocess.PIPE, text=True) as launcher:
        rank = int(launcher.stdout.readline())
        words = [sys.executable, "-I", "-S", lingering.__file__, str(launcher.pid), "0.1"]
        with subprocess.Popen([*words, "PMIX_NAMESPACE=mine"]) as watch:
            with pytest.raises(subprocess.TimeoutExpired):
                watch.wait(timeout=1.5)
            os.kill(rank, signal.SIGKILL)
            assert watch.wait(timeout=30) == 0
        assert launcher.wait(timeout=30) == -signal.SIGTERM


STAYS = """#!/bin/sh
trap '' TERM
{ranks}
while :; do /bin/sleep 0.1; done
"""


def launcher(folder, ranks):
    """Return an mpirun that stays when its ranks have ended, and ignores requests to end."""
    path = folder / "mpirun"
    path.write_text(STAYS.format(ranks=ranks))
    path.chmod(0o755)
    return str(path)


def test_an_mpirun_that_stays_after_its_ranks_is_ended_by_galaxy_mpi(tmp_path, monkeypatch):
    monkeypatch.setattr(supervise, "LINGERING_S", 0.2)
    words = [launcher(tmp_path, "OMPI_COMM_WORLD_RANK=0 sleep 1")]
    assert supervise.supervise(words, dict(os.environ)) == 128 + signal.SIGKILL


def test_an_mpirun_that_has_no_rank_yet_is_left_alone(tmp_path):
    idle = tmp_path / "mpirun"
    idle.symlink_to(shutil.which("sleep"))
    with subprocess.Popen([idle, "600"]) as starting:
        words = [sys.executable, "-I", "-S", lingering.__file__, str(starting.pid), "0.1"]
        with subprocess.Popen([*words, "OMPI_COMM_WORLD_RANK"]) as watch:
            with pytest.raises(subprocess.TimeoutExpired):
                watch.wait(timeout=1.5)
            assert starting.poll() is None
            starting.kill()
            assert watch.wait(timeout=30) == 0


RANK = """
import os, sys
from galaxy_mpi.mesh import lifeline
lifeline.LINGERING_S = 0.2
lifeline.end_launcher_after_ranks()
lifeline.end_launcher_after_ranks()
"""


@pytest.mark.parametrize("shell", ["", "sh -c '\"$@\"; exit $?' sh"])
def test_the_first_ranks_see_to_it_that_mpirun_ends(shell, tmp_path):
    """Even if a script around the rank goes on a little."""
    environ = "OMPI_COMM_WORLD_RANK=0 PMIX_NAMESPACE=of-this-test"
    (tmp_path / "rank.py").write_text(RANK)
    words = launcher(tmp_path, f"{environ} {shell} {sys.executable} {tmp_path / 'rank.py'}")
    with subprocess.Popen([words]) as stays:
        assert stays.wait(timeout=60) == -signal.SIGKILL


def test_an_mpirun_that_computes_for_ever_is_ended_too(tmp_path, monkeypatch):
    monkeypatch.setattr(supervise, "LINGERING_S", 0.2)
    path = tmp_path / "mpirun"
    path.write_text("#!/bin/sh\nOMPI_COMM_WORLD_RANK=0 sleep 1\nwhile :; do :; done\n")
    path.chmod(0o755)
    assert supervise.supervise([str(path)], dict(os.environ)) == 128 + signal.SIGTERM
