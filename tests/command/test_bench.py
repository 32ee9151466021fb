"""``galaxy-mpi bench``: that it measures what it says, on ranks and in one process."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from galaxy_mpi import bench
from tests.command.decode_command import LIMIT_S, environment, nobody_is_left
from tests.schemas import too_wide

SCRIPT = Path(sys.executable).parent / "galaxy-mpi"
QUICK = ["--mesh", "1x2", "--new-tokens", "3", "--turns", "2"]


def test_it_measures_one_core_and_every_turn_on_ranks(tmp_path):
    path = tmp_path / "bench.json"
    done = subprocess.run(
        [SCRIPT, "bench", *QUICK, "--json", path],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(path.read_text("utf-8"))
    assert (found["mesh"], found["ranks"]) == ("1x2", 2)
    assert {len(seconds) for seconds in found["decode"].values()} == {2}
    assert min(found["one_core"].values()) > 0
    decode = found["decode"]
    for compute_s, step_s in zip(decode["compute_s"], decode["decode_step_s"], strict=True):
        assert 0 < compute_s <= step_s
    shown = f"{found['one_core']['matmul_gflops']:.1f} GFLOPS"
    assert shown in done.stdout
    assert "host: decode step, demo" in done.stdout
    assert not too_wide(done.stdout)
    assert nobody_is_left()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--new-tokens", "1"], "--new-tokens must be 2 to 1000000, got 1"),
        (["--turns", "0"], "--turns must be 1 to 1000000, got 0"),
        (["--precision", "exact"], "--precision: no 'exact'; choose performance"),
    ],
)
def test_what_cannot_be_measured_is_one_line(capsys, arguments, said):
    assert bench.main(["--mesh", "1x2", "--chips-per-rank", "2", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"galaxy_mpi: {said}")
