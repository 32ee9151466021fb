"""The accuracy command over real ranks."""

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
