"""What the set-up made: nothing to do a second time, and no torch where it does not pay."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_second_set_up_does_nothing_and_needs_no_network():
    environ = os.environ | {"PIP_NO_INDEX": "1", "GALAXY_MPI_VENV": sys.prefix}
    result = subprocess.run(
        ["sh", str(ROOT / "launch" / "setup.sh"), "test"],
        env=environ,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_importing_the_package_starts_no_mpi_and_the_command_loads_no_torch():
    code = (
        "import sys, galaxy_mpi, galaxy_mpi.engine, galaxy_mpi.decode\n"
        "assert 'mpi4py.MPI' not in sys.modules\n"
        "sys.argv = ['decode', '--mesh', '1x1', '--max-new-tokens', '1', '--quiet']\n"
        "code = galaxy_mpi.decode.main()\n"
        "assert code == 0 and 'torch' not in sys.modules\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=6000, check=False
    )
    assert result.returncode == 0, result.stderr


def test_activation_lets_root_run_mpirun():
    script = f'. "{sys.prefix}/bin/activate" && echo $OMPI_ALLOW_RUN_AS_ROOT_CONFIRM'
    result = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False)
    assert result.stdout.strip() == "1"


def test_the_container_is_made_by_the_same_set_up():
    text = (ROOT / "Dockerfile").read_text()
    assert "sh launch/setup.sh" in text
    assert 'CMD ["mpirun", "-n", "32", "python", "-m", "galaxy_mpi.decode"]' in text
    assert "USER galaxy" in text
    base = next(line for line in text.splitlines() if line.startswith("ARG BASE="))
    assert base.count(".") >= 2, "the base is pinned to a patch release"
    stages = [line for line in text.splitlines() if line.startswith("FROM")]
    assert all("${BASE}" in stage for stage in stages)


def test_blas_is_told_its_one_thread_before_numpy_loads():
    """What runs before `one_thread_per_rank` in a command may not import numpy."""
    code = (
        "import sys; from galaxy_mpi.blas import one_thread_per_rank; one_thread_per_rank();"
        "assert 'numpy' not in sys.modules; import os; print(os.environ['OPENBLAS_NUM_THREADS'])"
    )
    environ = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")}
    result = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stdout) == (0, "1\n"), result.stderr
    source = (ROOT / "galaxy_mpi" / "decode.py").read_text()
    before = source[: source.index("one_thread_per_rank()")]
    assert "numpy" not in before
    assert before.count("from galaxy_mpi") == 1
