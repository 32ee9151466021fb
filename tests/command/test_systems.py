"""The second system, the comparison and the script of docs/python.md, as users start them."""

import json
import os
import re
import subprocess
import sys

import pytest

from galaxy_mpi.studies.ideas import IDEAS
from tests.command.decode_command import LIMIT_S, MPIRUN, ROOT, refused, run


def mpi(ranks, *command):
    env = os.environ | {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return subprocess.run(
        [str(MPIRUN), "-n", str(ranks), sys.executable, *map(str, command)],
        env=env,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


def test_the_script_of_the_readme_runs_as_it_stands(tmp_path):
    section = (ROOT / "docs" / "python.md").read_text("utf-8")
    script, swap = re.findall(r"```python\n(.*?)```", section, re.S)[:2]
    assert len([line for line in script.splitlines() if line.strip()]) <= 22
    path = tmp_path / "script.py"
    path.write_text(script)
    done = mpi(4, path)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()[:2]
    assert first.startswith("It is a truth")
    assert second.startswith("Emma Woodhouse, handsome")
    assert len(first) > len("It is a truth") + 8
    path.write_text(
        swap.replace("import numpy", "from galaxy_mpi.generator import *\nimport numpy").replace(
            '"demo",', '"demo", mesh="1x2",'
        )
        + "\nwith Generator(model) as g:\n"
        "    g.prefill_forward([[1, 2, 3]])\n"
        "    print(g.decode_forward(*g.prepare_decode_inputs([4], [3])).shape)\n"
        "model.close()\n"
    )
    done = mpi(2, path)
    assert done.returncode == 0, done.stderr
    assert "(32, " in done.stdout


def test_compare_times_both_clocks(tmp_path):
    path = tmp_path / "rows.json"
    done = mpi(
        4,
        "-m",
        "galaxy_mpi.compare",
        "--mesh",
        "2x2",
        "--users",
        "8",
        "--turns",
        "1",
        "--json",
        path,
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(path.read_text())["rows"]
    assert len(rows) == 1 + 2 * len(IDEAS)
    for row in rows:
        assert row["host_step_s"] > 0
        assert row["device_step_s"] > 0
        assert row["host_allocations"] == 0
    assert rows[len(IDEAS)]["name"] == "prefetcher"
    assert rows[len(IDEAS)]["allocations"] == 0
    assert "host ms" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--system", "gpu"], "no system 'gpu'; choose galaxy, tt_transformers"),
        (["--optimizations", "/no/such.json"], "No such file"),
        (["--optimizations", "accuracy", "--precision", "accuracy"], "not both"),
    ],
)
def test_bad_arguments_are_one_line(arguments, said):
    refused(run(2, "--mesh", "1x2", *arguments), said)


def test_both_systems_are_as_right_in_accuracy(tmp_path):
    """Top-1 against transformers, over the whole of the text, differs by at most 1 %."""
    top1 = {}
    for system in ("galaxy", "tt_transformers"):
        path = tmp_path / f"{system}.json"
        done = mpi(
            4,
            *("-m", "galaxy_mpi.accuracy", "--system", system, "--mesh", "2x2"),
            *("--text", ROOT / "benchmarks" / "prose.txt", "--tokens", "2000"),
            *("--precision", "accuracy", "--json", path),
        )
        assert done.returncode == 0, done.stderr
        (row,) = json.loads(path.read_text())["precisions"]
        top1[system] = row["top1"]
    assert abs(top1["galaxy"] - top1["tt_transformers"]) <= 0.01
