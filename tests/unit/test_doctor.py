"""The doctor's checks, with answers written by hand."""

import errno
import json
import os
import shutil
import socket
import stat
import subprocess
import sys

import pytest

from galaxy_mpi import doctor
from galaxy_mpi.blas import blas_kernels
from galaxy_mpi.errors import ConfigError
from galaxy_mpi.failures import tell
from galaxy_mpi.health import Level, host, launch_findings, network, software_findings
from galaxy_mpi.health.host import cgroup_quota
from galaxy_mpi.memory import available_bytes, check_fits, free_disk_bytes


@pytest.mark.parametrize(("text", "cores"), [("150000 100000", 1.5), ("max 100000", None)])
def test_the_quota_of_a_container(tmp_path, text, cores):
    (tmp_path / "cpu.max").write_text(text + "\n")
    assert cgroup_quota(tmp_path) == cores


def test_the_quota_of_an_old_container(tmp_path):
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("50000\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert cgroup_quota(tmp_path) == 0.5
    assert cgroup_quota(tmp_path / "nowhere") is None


def test_memory_is_what_host_and_container_both_give(tmp_path):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 9000 kB\nMemAvailable: 4000 kB\nSwapFree: 96 kB\n")
    assert available_bytes(meminfo, tmp_path) == 4096 * 1024
    (tmp_path / "memory.max").write_text("3000000\n")
    (tmp_path / "memory.current").write_text("2000000\n")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 500000\n")
    assert available_bytes(meminfo, tmp_path) == 1_500_000
    (tmp_path / "memory.max").write_text("max\n")
    assert available_bytes(meminfo, tmp_path) == 4096 * 1024
    assert available_bytes(tmp_path / "nowhere", tmp_path) is None


def test_what_does_not_fit_is_refused_with_both_numbers():
    check_fits(2**31, "weights", 2**31)
    check_fits(2**31, "weights", None)
    with pytest.raises(ConfigError, match=r"weights need 3\.0 GiB and this host has 2\.0 GiB"):
        check_fits(3 * 2**30, "weights", 2**31)


def script(folder, text):
    path = folder / "mpirun"
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


@pytest.mark.parametrize(
    ("does", "said"),
    [
        ("echo ranks: 1; echo ranks: 1", "2 unconnected processes"),
        ("echo 'running as root' >&2; exit 1", "refuses to run as root"),
        ("echo 'There are not enough slots' >&2; exit 1", "fewer slots than the 2 ranks"),
        ("echo all is lost >&2; exit 1", "did not start: all is lost"),
    ],
)
def test_a_launcher_that_does_not_fit_is_told(tmp_path, does, said):
    mpirun = script(tmp_path, f'[ "$1" = --version ] && echo 9 && exit 0\n{does}\n')
    found = launch_findings(mpirun)
    assert (found[-1].name, found[-1].level) == ("ranks", Level.BAD)
    assert said in found[-1].found
    assert found[-1].advice


def test_no_launcher_is_told():
    found = launch_findings("no-such-mpirun")
    assert (found[-1].name, found[-1].level) == ("launcher", Level.BAD)


def test_a_folder_without_a_model_and_threads_of_blas_are_told(tmp_path):
    environ = {"LLAMA_DIR": str(tmp_path), "OMP_NUM_THREADS": "8"}
    found = {finding.name: finding for finding in software_findings(environ, tmp_path)}
    assert found["model"].level is Level.BAD
    assert found["BLAS threads"].level is Level.NOTE
    (tmp_path / "config.json").write_text("{}")
    found = {finding.name: finding for finding in software_findings(environ, tmp_path)}
    assert found["model"].level is Level.GOOD


def test_kernels_of_another_processor_are_told(tmp_path):
    for asked, level in (({}, Level.GOOD), ({"OPENBLAS_CORETYPE": "Haswell"}, Level.NOTE)):
        (told,) = (f for f in software_findings(asked, tmp_path) if f.name == "BLAS kernels")
        assert told.level is level
        assert blas_kernels() in told.found


def test_the_kernels_are_those_that_openblas_was_asked_for():
    code = "from galaxy_mpi.blas import blas_kernels; print(blas_kernels())"
    for asked in ("Haswell", "Nehalem"):
        environ = {**os.environ, "OPENBLAS_CORETYPE": asked}
        found = subprocess.run(
            [sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True
        )
        assert found.stdout in (f"OpenBLAS {asked}\n", "unknown\n")


def test_software_that_pip_leaves_out_is_a_note_and_nothing_bad(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    found = {each.name: each for each in software_findings({}, tmp_path)}
    assert found["torch"].level is Level.NOTE
    assert "numpy" in found["torch"].found
    assert not [each for each in found.values() if each.level is Level.BAD]


def test_memory_is_asked_for_as_a_whole_run_needs_it():
    """A run of 32 ranks of the demo has 1,152 MiB, one of a single rank 166 MiB."""
    asked = {n: host.host_findings(n)[1].found for n in (1, 32)}
    assert "1 ranks need 0.2 plus" in asked[1]
    assert "32 ranks need 1.2 plus" in asked[32]


def test_the_command_prints_json_and_ends_with_1_if_something_is_bad(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LLAMA_DIR", str(tmp_path))
    assert doctor.main(["--start", "0", "--json"]) == 1
    content = json.loads(capsys.readouterr().out)
    assert content["schema_version"] == 1
    found = {line["name"]: line for line in content["findings"]}
    assert found["model"]["level"] == "bad"
    assert found["cores"]["found"].startswith(str(len(os.sched_getaffinity(0))))


def test_hosts_of_a_hostfile(tmp_path, monkeypatch):
    listens = socket.create_server(("127.0.0.1", 0))
    deaf = socket.create_server(("127.0.0.1", 0))
    closed_port, open_port = deaf.getsockname()[1], listens.getsockname()[1]
    deaf.close()
    addresses = {"here": "127.0.0.1", "wrong": "127.0.1.1", "other": "0.0.0.0"}

    def resolve(name, port, **_):
        if name not in addresses:
            raise socket.gaierror
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", (addresses[name], port))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(socket, "gethostname", lambda: "here")
    (tmp_path / "hosts").write_text("here slots=4 # first\n\nme@other slots=2\nwrong\nnowhere\n")

    def levels(port):
        found = network.network_findings(tmp_path / "hosts", 8, port=port, interfaces=tmp_path)
        return {finding.name: (finding.level, finding.found) for finding in found}

    found = levels(open_port)
    assert found["slots"] == (Level.GOOD, "8 on 4 hosts, for 8 ranks")
    assert found["host other"][0] is Level.GOOD
    assert found["host wrong"] == (Level.BAD, "127.0.1.1 is the loopback address")
    assert found["host nowhere"] == (Level.BAD, "has no address")
    assert found["interfaces"][0] is Level.BAD
    found = levels(closed_port)
    assert found["host here"] == (Level.GOOD, "127.0.0.1, this host")
    assert found["host other"] == (
        Level.BAD,
        f"0.0.0.0 port {closed_port}: Connection refused",
    )
    listens.close()


def test_interfaces_that_are_up(tmp_path):
    for name, state in (
        ("lo", "unknown"),
        ("eth0", "up"),
        ("docker0", "down"),
        ("tun0", "unknown"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "operstate").write_text(f"{state}\n")
    (tmp_path / "hosts").write_text("localhost slots=2\n")
    *_, found = network.network_findings(tmp_path / "hosts", 4, interfaces=tmp_path)
    assert (found.level, found.found) == (Level.NOTE, "eth0 tun0")


@pytest.mark.parametrize("text", [None, "", "# nobody\n"])
def test_a_hostfile_that_names_nobody_is_a_line(tmp_path, text, capsys):
    path = tmp_path / "hosts"
    if text is not None:
        path.write_text(text)
    assert doctor.main(["--start", "0", "--hostfile", str(path)]) == 2
    assert capsys.readouterr().err.startswith(f"galaxy_mpi: --hostfile {path} ")


def test_a_run_without_descriptors_prints_what_the_doctor_says_of_them(monkeypatch, capsys):
    monkeypatch.setattr(host.resource, "getrlimit", lambda which: (24, 4096))
    monkeypatch.setattr("galaxy_mpi.mesh.mpi.world_rank", lambda: 1)  # without MPI
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    tell(OSError(errno.EMFILE, "Too many open files"))
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("galaxy_mpi: doctor: descriptors: limit 24 per process, 80 needed; ")
    tell(ValueError("no resource"))
    assert "doctor" not in capsys.readouterr().err


def test_room_on_a_disk_is_that_of_the_nearest_folder(tmp_path):
    found = free_disk_bytes(tmp_path / "to be" / "made")
    assert abs(found - shutil.disk_usage(tmp_path).free) < 2**30
    assert free_disk_bytes(tmp_path) > 0
