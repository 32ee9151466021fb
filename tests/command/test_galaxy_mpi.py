"""galaxy-mpi as people start it: nothing set, no activation, in an empty folder."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.command.decode_command import LIMIT_S, MARK, MPIRUN, nobody_is_left

SCRIPT = Path(sys.executable).parent / "galaxy-mpi"
QUICK = ["--mesh", "1x2", "--max-new-tokens", "2", "--prompt", "It is a", "--quiet"]


def environment():
    """Neither this environment's bin nor what activation sets."""
    name, value = MARK.split("=")
    return {"PATH": "/usr/bin:/bin", "HOME": os.environ.get("HOME", "/"), name: value}


def run(*words, cwd=None, program=(str(SCRIPT),)):
    return subprocess.run(
        [*program, *words],
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


def test_ranks_are_started_from_an_empty_folder(tmp_path):
    # Where root is refused for good reason, the test asks for it.
    told = run("--allow-run-as-root", "decode", *QUICK, "--json", "out.json", cwd=tmp_path)
    assert told.returncode == 0, told.stderr
    assert "1x2, 2 chips" in told.stdout
    assert json.loads((tmp_path / "out.json").read_text())["users"]
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]


def test_the_module_does_the_same_and_an_error_is_an_exit_code(tmp_path):
    program = (sys.executable, "-m", "galaxy_mpi")
    told = run("--allow-run-as-root", "decode", *QUICK, "--page-size", "0", program=program)
    assert told.returncode == 2
    assert told.stderr.count("galaxy_mpi: --page-size must be at least 1, got 0") == 1
    assert nobody_is_left()


def test_the_doctor_judges_the_launcher_that_a_run_would_have():
    """Nothing is activated: mpirun is found, and set up, as for ranks."""
    told = run("--allow-run-as-root", "doctor", "--ranks", "2")
    assert told.returncode == 0, told.stdout
    assert f"good launcher      {MPIRUN}" in told.stdout
    assert "good ranks         2 start and connect" in told.stdout


def test_one_process_plays_all_chips_without_mpirun():
    told = run("decode", *QUICK, "--chips-per-rank", "2")
    assert told.returncode == 0, told.stderr
    assert "[user 0] It is a" in told.stdout


def test_under_mpirun_it_is_a_rank():
    root = ("env", "OMPI_ALLOW_RUN_AS_ROOT=1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1")
    told = run("decode", *QUICK, program=(*root, str(MPIRUN), "-n", "2", str(SCRIPT)))
    assert told.returncode == 0, told.stderr
    assert told.stdout.count("1x2, 2 chips") == 1


@contextmanager
def in_decode(folder, *, program, mesh="1x2", max_new_tokens=4000):
    """Start a run that would take minutes; yield it when it has decoded two steps."""
    endless = ["--mesh", mesh, "--layers", "1", "--max-new-tokens", str(max_new_tokens)]
    marks = ["--capture", str(folder), "--capture-ops", "w2", "--capture-steps", "2"]
    files = [*marks, "--json", str(folder / "out.json")]
    with subprocess.Popen(
        [*program, "decode", *endless, "--prompt", "It is a", "--quiet", *files],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as started:
        try:
            while not (folder / "decode-0002.safetensors").exists():
                assert started.poll() is None, started.stderr.read()
                time.sleep(0.02)
            yield started
        finally:
            started.kill()


@pytest.mark.parametrize("mesh", ["1x2", "2x2"])
def test_an_interrupt_writes_what_there_is_however_long_it_takes(tmp_path, mesh):
    program = (str(SCRIPT), "--allow-run-as-root")
    with in_decode(tmp_path, program=program, mesh=mesh) as started:
        started.send_signal(signal.SIGINT)
        told, errors = started.communicate(timeout=LIMIT_S)
    assert started.returncode == 130, errors
    assert told.startswith("interrupted: not all users have ended")
    assert "[user 0] It is a|" in told
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["interrupted"]
    assert 1 <= len(found["tokens"][0]) < 4000
    assert "galaxy_mpi: interrupted; the run ends with what it has" in errors
    assert "prterun" not in errors
    assert nobody_is_left()


def test_a_request_to_a_bare_mpirun_writes_what_there_is_too(tmp_path):
    root = ("env", "OMPI_ALLOW_RUN_AS_ROOT=1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1")
    program = (*root, str(MPIRUN), "-n", "2", str(SCRIPT))
    with in_decode(tmp_path, program=program) as started:
        started.send_signal(signal.SIGUSR1)
        told, errors = started.communicate(timeout=LIMIT_S)
    assert started.returncode == 130, errors
    assert told.startswith("interrupted: not all users have ended")
    assert json.loads((tmp_path / "out.json").read_text())["interrupted"]
    assert nobody_is_left()


def test_under_nohup_a_run_goes_on_when_its_terminal_is_closed(tmp_path):
    program = ("nohup", str(SCRIPT), "--allow-run-as-root")
    with in_decode(tmp_path, program=program, max_new_tokens=300) as started:
        started.send_signal(signal.SIGHUP)
        _, errors = started.communicate(timeout=LIMIT_S)
    assert started.returncode == 0, errors
    found = json.loads((tmp_path / "out.json").read_text())
    assert not found["interrupted"]
    assert len(found["tokens"][0]) == 300


def test_without_nohup_it_ends(tmp_path):
    # These tests themselves may run under nohup, whose children ignore the signal.
    program = ("env", "--default-signal=HUP", str(SCRIPT), "--allow-run-as-root")
    with in_decode(tmp_path, program=program) as started:
        started.send_signal(signal.SIGHUP)
        started.communicate(timeout=LIMIT_S)
    assert started.returncode != 0
    assert nobody_is_left()


@pytest.mark.skipif(sys.version_info < (3, 11), reason="no PYTHONSAFEPATH")
def test_ranks_import_the_installed_package_also_where_a_copy_of_its_source_is(tmp_path):
    (tmp_path / "galaxy_mpi").mkdir()
    (tmp_path / "galaxy_mpi" / "__init__.py").write_text("raise RuntimeError('the copy')")
    told = run("--allow-run-as-root", "decode", *QUICK, "--layers", "1", cwd=tmp_path)
    assert told.returncode == 0, told.stderr


BROKEN = """
from dataclasses import replace
from galaxy_mpi.systems import GALAXY
from galaxy_mpi.systems.ops.gate_up import FusedGateUp

class Broken(FusedGateUp):
    def bind(self, chip, *inputs):
        if chip.rank == 1:
            raise RuntimeError("broken on purpose")
        return super().bind(chip, *inputs)

SYSTEM = replace(GALAXY, name="broken", decode=replace(GALAXY.decode, gate_up=Broken))
"""


def test_the_last_line_after_an_abort_is_ours(tmp_path):
    path = tmp_path / "broken.py"
    path.write_text(BROKEN)
    words = ("decode", *QUICK, "--layers", "1", "--system", f"{path}:SYSTEM")
    told = run("--allow-run-as-root", *words)
    assert told.returncode == 1
    assert told.stderr.rstrip().endswith("RuntimeError: broken on purpose")
    assert "galaxy_mpi: rank 1 failed:" in told.stderr
    assert "MPI_ABORT" not in told.stderr
    # As a bare mpirun has it: the notice is behind the cause.
    root = ("env", "OMPI_ALLOW_RUN_AS_ROOT=1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1")
    bare = run(*words, program=(*root, str(MPIRUN), "-n", "2", str(SCRIPT)))
    assert bare.returncode == 1
    assert "MPI_ABORT was invoked on rank 1" in bare.stderr
    assert nobody_is_left()
