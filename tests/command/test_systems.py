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


def test_the_script_of_the_documents_runs_on_ranks(tmp_path):
    section = (ROOT / "docs" / "python.md").read_text("utf-8")
    script, swap = re.findall(r"```python\n(.*?)```", section, re.S)[1:3]
    path = tmp_path / "script.py"
    path.write_text(script)
    done = mpi(4, path)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()[:2]
    assert first.startswith("It is a truth")
    assert second.startswith("Emma Woodhouse, handsome")
    assert len(first) > len("It is a truth") + 8
    on_ranks = swap.replace('mesh="2x2"', 'mesh="1x2", comm=MPI.COMM_WORLD')
    path.write_text(
        f"from mpi4py import MPI\n{on_ranks}\n"
        "with Generator(model) as g:\n"
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
    assert len(rows) == 2 + 2 * len(IDEAS)
    for row in rows:
        assert row["host_step_s"] > 0
        assert row["device_step_s"] > 0
        assert row["host_allocations"] == 0
    assert rows[1]["name"] == "formats of the Galaxy"
    assert rows[1 + len(IDEAS)]["name"] == "prefetcher"
    assert rows[1 + len(IDEAS)]["allocations"] == 0
    assert "host time of a decode step" in done.stdout


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


def test_accuracy_is_measured_as_the_original_measures_it(tmp_path):
    """A file of the original, one chip, and positions behind a prefilled beginning."""
    path, file = tmp_path / "out.json", tmp_path / "performance_decoder_config.json"
    file.write_text('{"decoders": {"3": {"precision_cfg": {"FF1_FF3": "BFP8"}}}}')
    done = subprocess.run(
        [
            *(sys.executable, "-m", "galaxy_mpi.accuracy", "--system", "tt_transformers"),
            *("--mesh", "1x1", "--text", str(ROOT / "benchmarks" / "prose.txt")),
            *("--tokens", "90", "--prefill", "70", "--optimizations", str(file)),
            *("--precision", "performance,float32", "--json", str(path)),
        ],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    content = json.loads(path.read_text())
    plain, exact, of_file = content["precisions"]
    assert {row["positions"] for row in content["precisions"]} == {20}
    assert (exact["top1"], exact["top5"]) == (1, 1)
    assert exact["logits_pcc"] > 0.999999
    # w1 and w3 of one layer in eight bits in place of four.
    assert plain["logits_pcc"] < of_file["logits_pcc"] < exact["logits_pcc"]
    assert {o["tensor"] for o in content["outliers"]} == {"stream", "attention", "act"}
    assert "published: top-1 and top-5" in done.stdout


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"prompt": "3 + rank"}, "prompts of rank 1 differ from those of rank 0: [[1, 2, 4]], not"),
        ({"user": "rank"}, "users of rank 1 differ from those of rank 0: [1], not [0]"),
        ({"token": "5 + rank"}, "tokens of a step of rank 1 differ from those of rank 0: [6, 0]"),
        ({"position": "3 + rank"}, "positions of column 0 of rank 1 differ from those of rank 0"),
    ],
)
def test_another_input_on_one_rank_is_an_error(tmp_path, changed, said):
    given = {"prompt": "3", "user": "0", "token": "5", "position": "3"} | changed
    path = tmp_path / "script.py"
    path.write_text(
        "from mpi4py import MPI\n"
        "from galaxy_mpi import Generator, create_model\n"
        "rank = MPI.COMM_WORLD.rank\n"
        'model = create_model("demo", mesh="2x1", max_batch_size=2, comm=MPI.COMM_WORLD)\n'
        "with Generator(model) as generator:\n"
        f"    generator.prefill_forward([[1, 2, {given['prompt']}]], users=[{given['user']}])\n"
        f"    inputs = generator.prepare_decode_inputs([{given['token']}], [{given['position']}])\n"
        "    generator.decode_forward(*inputs)\n"
    )
    done = mpi(2, path)
    assert done.returncode != 0
    assert f"the {said}" in done.stderr
    assert done.stderr.startswith("galaxy_mpi: rank 0 failed:\nTraceback")
    assert done.stderr.count("Traceback") == 1


def test_another_input_on_one_rank_can_be_caught_on_all(tmp_path):
    path = tmp_path / "script.py"
    path.write_text(
        "from mpi4py import MPI\n"
        "from galaxy_mpi import Generator, create_model\n"
        "from galaxy_mpi.errors import ConfigError\n"
        "rank = MPI.COMM_WORLD.rank\n"
        'model = create_model("demo", mesh="2x1", max_batch_size=1, comm=MPI.COMM_WORLD)\n'
        "with Generator(model) as generator:\n"
        "    try:\n"
        "        generator.prefill_forward([[1, 2, rank]])\n"
        "    except ConfigError:\n"
        "        generator.prefill_forward([[1, 2, 3]])\n"
        '        print("again on rank", rank)\n'
    )
    done = mpi(2, path)
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(done.stdout.splitlines()) == ["again on rank 0", "again on rank 1"]
