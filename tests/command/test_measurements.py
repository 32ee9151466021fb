"""The accuracy command and the benchmark of collectives, over real ranks."""

import json
import os
import subprocess
import sys

import pytest

from tests.command.decode_command import LIMIT_S, MPIRUN, ROOT


def accuracy(*arguments: str):
    env = os.environ | {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    command = [MPIRUN, "-n", "4", sys.executable, "-m", "galaxy_mpi.accuracy", "--mesh", "2x2"]
    return subprocess.run(
        [*map(str, command), *arguments],
        env=env,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


def test_float32_agrees_everywhere_and_less_precision_less(tmp_path):
    path = tmp_path / "out.json"
    prose = str(ROOT / "benchmarks" / "prose.txt")
    result = accuracy("--text", prose, "--tokens", "150", "--json", str(path))
    assert result.returncode == 0, result.stderr
    rows = {row["precision"]: row for row in json.loads(path.read_text())["precisions"]}
    exact, accurate, fast = (rows[p] for p in ("float32", "accuracy", "performance"))
    assert exact["top1"] == exact["top5"] == 1.0
    assert exact["perplexity"] == pytest.approx(exact["reference_perplexity"], rel=1e-4)
    assert min(*exact["stream_pcc"], exact["logits_pcc"]) > 0.999999
    assert len(exact["stream_pcc"]) == 4
    assert 0.99 < fast["logits_pcc"] < accurate["logits_pcc"] < exact["logits_pcc"]
    assert min(fast["top5"], accurate["top5"]) > 0.98
    for name in rows:
        assert name in result.stdout


def test_the_collectives_benchmark_is_right_beside_its_peer(tmp_path):
    path = tmp_path / "rows.json"
    command = [MPIRUN, "-n", "4", sys.executable, ROOT / "benchmarks" / "ring_collectives.py"]
    arguments = ["--mesh", "2x2", "--sizes", "1K,3000", "-n", "3", "--peers", "mpi"]
    for extra in ([], ["--topology", "ring", "-d", "bfp8", "--transport", "mpi"]):
        told = subprocess.run(
            [*map(str, command), *arguments, *extra, "--json", str(path)],
            env=os.environ | {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"},
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        assert told.returncode == 0, told.stderr
        rows = json.loads(path.read_text())
        assert len(rows) == 2 * 2 * 3 * 2  # implementations, axes, ops, sizes
        assert {row["implementation"] for row in rows} == {"galaxy_mpi", "mpi"}
        assert {row["wrong"] for row in rows} == {0}
        assert "geometric mean" in told.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--text", "/no/such.txt"], "--text /no/such.txt cannot be read"),
        (["--text", __file__, "--tokens", "1"], "--tokens must be at least 2, got 1"),
        (["--text", __file__, "--precision", "double"], "no precision 'double'"),
    ],
)
def test_bad_arguments_are_one_line(arguments, said):
    result = accuracy(*arguments)
    assert result.returncode != 0
    lines = [line for line in result.stderr.splitlines() if line.startswith("galaxy_mpi: ")]
    assert len(lines) == 1
    assert said in lines[0]
    assert "Traceback" not in result.stderr
