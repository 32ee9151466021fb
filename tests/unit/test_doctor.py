"""The doctor's checks, with answers written by hand."""

import json
import os
import shutil
import stat

import pytest

from galaxy_mpi import doctor
from galaxy_mpi.errors import ConfigError
from galaxy_mpi.health import Level, launch_findings, software_findings
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


def test_the_command_prints_json_and_ends_with_1_if_something_is_bad(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LLAMA_DIR", str(tmp_path))
    assert doctor.main(["--start", "0", "--json"]) == 1
    found = {line["name"]: line for line in json.loads(capsys.readouterr().out)}
    assert found["model"]["level"] == "bad"
    assert found["cores"]["found"].startswith(str(len(os.sched_getaffinity(0))))


def test_room_on_a_disk_is_that_of_the_nearest_folder(tmp_path):
    found = free_disk_bytes(tmp_path / "to be" / "made")
    assert abs(found - shutil.disk_usage(tmp_path).free) < 2**30
    assert free_disk_bytes(tmp_path) > 0
