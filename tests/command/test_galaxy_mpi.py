"""galaxy-mpi as people start it: nothing set, no activation, in an empty folder."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.command.decode_command import LIMIT_S, MARK, MPIRUN, nobody_is_left

SCRIPT = Path(sys.executable).parent / "galaxy-mpi"
QUICK = ["--mesh", "1x2", "--max-new-tokens", "2", "--prompt", "It is a", "--quiet"]


def run(*words, cwd=None, program=(str(SCRIPT),)):
    name, value = MARK.split("=")
    # Neither this environment's bin nor what activation sets.
    environ = {"PATH": "/usr/bin:/bin", "HOME": os.environ.get("HOME", "/"), name: value}
    return subprocess.run(
        [*program, *words],
        cwd=cwd,
        env=environ,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


def test_ranks_are_started_from_an_empty_folder(tmp_path):
    # Where root is refused for good reason, the test asks for it.
    told = run("--allow-run-as-root", "decode", *QUICK, "--json", "out.json", cwd=tmp_path)
    assert told.returncode == 0, told.stderr
    assert "1x2, 2 ranks" in told.stdout
    assert json.loads((tmp_path / "out.json").read_text())["users"]
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]


def test_the_module_does_the_same_and_an_error_is_an_exit_code(tmp_path):
    program = (sys.executable, "-m", "galaxy_mpi")
    told = run("--allow-run-as-root", "decode", *QUICK, "--page-size", "0", program=program)
    assert told.returncode == 2
    assert told.stderr.count("galaxy_mpi: --page-size must be at least 1, got 0") == 1
    assert nobody_is_left()


def test_one_process_plays_all_chips_without_mpirun():
    told = run("decode", *QUICK, "--chips-per-rank", "2")
    assert told.returncode == 0, told.stderr
    assert "[user 0] It is a" in told.stdout


def test_under_mpirun_it_is_a_rank():
    root = ("env", "OMPI_ALLOW_RUN_AS_ROOT=1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1")
    told = run("decode", *QUICK, program=(*root, str(MPIRUN), "-n", "2", str(SCRIPT)))
    assert told.returncode == 0, told.stderr
    assert told.stdout.count("1x2, 2 ranks") == 1
