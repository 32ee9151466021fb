"""The accuracy command and the benchmark of collectives, over real ranks."""

import json
import os
import subprocess
import sys

import pytest

from tests.command.decode_command import LIMIT_S, MPIRUN, ROOT
from tests.schemas import FOLDER, schema


def accuracy(*arguments: str):
    return on_four_ranks("accuracy", *arguments)


def on_four_ranks(name: str, *arguments: str):
    return on_ranks(4, name, *arguments)


def on_ranks(ranks: int, name: str, *arguments: str):
    env = os.environ | {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    command = [sys.executable, "-m", f"galaxy_mpi.{name}", "--mesh", "2x2"]
    command = [MPIRUN, "-n", str(ranks), *command] if ranks > 1 else command
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


def test_a_search_on_ranks_finds_what_a_search_in_one_process_finds(tmp_path):
    prose = str(ROOT / "benchmarks" / "prose.txt")
    tried = ["--try=wqkv=bf16", "--try=wo=bfp8", "--try=kv_cache=bfp8", "--by-layer", "--quiet"]
    tried += ["--try=activation=mixed"]
    arguments = ["--text", prose, "--tokens", "64", "--target", "top1>=90", *tried]
    written = {}
    for ranks, alone in ((4, []), (1, ["--chips-per-rank=4"])):
        files = [tmp_path / f"{ranks}.{kind}" for kind in ("json", "csv", "formats")]
        words = [f"--{o}={f}" for o, f in zip(("json", "csv", "write"), files, strict=True)]
        result = on_ranks(ranks, "pareto", *arguments, *words, *alone)
        assert result.returncode == 0, result.stderr
        assert "the answer to --target" in result.stdout
        content = json.loads(files[0].read_text())
        assert content.pop("run")["argv"][0] == "galaxy_mpi.pareto"
        written[ranks] = [content, *(file.read_bytes() for file in files[1:])]
    assert written[4] == written[1]


def test_an_error_in_the_search_of_rank_0_ends_all_ranks_with_one_line():
    prose = str(ROOT / "benchmarks" / "prose.txt")
    result = on_four_ranks("pareto", "--text", prose, "--tokens=32", "--users=99", "--quiet")
    assert result.returncode == 2
    told = [line for line in result.stderr.splitlines() if line.startswith("galaxy_mpi: ")]
    assert told == ["galaxy_mpi: --users must be 1 to 32, got 99"]


def test_the_collectives_benchmark_is_right_beside_its_peer(tmp_path):
    path, page = tmp_path / "rows.json", tmp_path / "rows.html"
    command = [MPIRUN, "-n", "4", sys.executable, ROOT / "benchmarks" / "ring_collectives.py"]
    arguments = ["--mesh", "2x2", "--sizes", "1K,3000,8K", "-n", "3", "--peers", "mpi"]
    for extra in ([], ["--topology", "ring", "-d", "bfp8", "--transport", "mpi"]):
        told = subprocess.run(
            [*map(str, command), *arguments, *extra, "--json", str(path), "--report", str(page)],
            env=os.environ | {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"},
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        assert told.returncode == 0, told.stderr
        content = json.loads(path.read_text())
        assert content["schema_version"] == 1
        rows = content["rows"]
        ways = {"ring"} if extra else {"ring", "direct"}
        assert len(rows) == (len(ways) + 1) * 2 * 3 * 3  # implementations, axes, ops, sizes
        assert {row["implementation"] for row in rows} == {"galaxy_mpi", "mpi"}
        assert {row["topology"] for row in rows} == {*ways, ""}
        assert {row["wrong"] for row in rows} == {0}
        for row in rows:
            gathered = row["topology"] == "ring" and row["op"] != "all_gather"
            # As messages, a chunk of more than 512 values is added hop by hop.
            gathered &= not (extra and row["op"] == "reduce_scatter" and row["count"] > 1024)
            assert row["ran_as"] == row["topology"] + " of terms" * gathered
        html = page.read_text("utf-8")
        assert html.count("<figure") == 2 * len({(row["op"], row["axis"]) for row in rows})
        assert f"{rows[-1]['busbw_GBps']:.3f}</td>" in html
        for way in ways:
            assert f"# galaxy_mpi {way} / mpi: geometric mean" in told.stdout
        title, names, units = told.stdout.splitlines()[:3]
        assert title.startswith("# all_gather within a row, ")
        assert names.startswith("# made by")
        assert units.split() == ["#", "B", "us", "GB/s", "GB/s", "values", "us", "GB/s"]
        assert [r["device_peak_GBps"] > r["device_busbw_GBps"] for r in rows] == [True] * len(rows)


def test_the_schema_of_the_collectives_benchmark_is_that_of_its_report(tmp_path):
    file, made = schema("ring_collectives", tmp_path)
    assert json.loads((FOLDER / file).read_text("utf-8")) == made, "python -m tests.schemas"
    assert f"(schemas/{file})" in (ROOT / "docs" / "json.md").read_text("utf-8")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--collectives", "all_gather,broadcast"], "no collective 'broadcast'; choose all_gather"),
        (["--axes", "DEPTH"], "no axis 'DEPTH'; choose column, row"),
        (["--peers", "nccl"], "no peer 'nccl'; choose mpi, gloo"),
        (["--sizes", "2K,big"], "a size is a number of bytes such as 2048, 16K or 1M; got 'big'"),
        (["-b", "4K", "-e", "2K"], "nothing to run"),
        (["-f", "1"], "--stepfactor must be at least 2, got 1"),
        (["--links", "0"], "--links must be at least 1, got 0"),
    ],
)
def test_the_collectives_benchmark_refuses_what_there_is_not(arguments, said):
    told = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "ring_collectives.py"), *arguments],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert told.returncode != 0
    assert [line for line in told.stderr.splitlines() if said in line] == told.stderr.splitlines()


def test_device_time_follows_the_topology_and_the_links():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        from collective_report import device
    finally:
        sys.path.pop(0)
    size, n_bytes = 8, 2**20
    seconds = {
        (topology, links): device("all_gather", size, n_bytes, topology, links)[0]
        for topology in ("ring", "line", "direct")
        for links in (1, 4)
    }
    for topology in ("ring", "line", "direct"):
        assert seconds[topology, 1] > 2 * seconds[topology, 4]
    # The end of a line passes seven blocks where a ring passes three and a half each way.
    assert seconds["line", 4] > 1.5 * seconds["ring", 4]
    assert seconds["direct", 4] == seconds["ring", 4]
    scattered = device("reduce_scatter", size, n_bytes, "ring", 4)[0]
    reduced = device("all_reduce", size, n_bytes, "ring", 4)[0]
    assert reduced == pytest.approx(scattered + seconds["ring", 4])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--text", "/no/such.txt"], "--text /no/such.txt cannot be read"),
        (["--text", __file__, "--tokens", "1"], "--tokens must be at least 2, got 1"),
        (["--text", __file__, "--precision", "double"], "--precision: no 'double'"),
        (["--text", __file__, "--by-op", "5:2"], "--by-op is numbers and ranges"),
        (["--text", __file__, "--by-op", "900-999"], "--by-op 900-999 names nothing that runs"),
    ],
)
def test_bad_arguments_are_one_line(arguments, said):
    result = accuracy(*arguments)
    assert result.returncode != 0
    lines = [line for line in result.stderr.splitlines() if line.startswith("galaxy_mpi: ")]
    assert len(lines) == 1
    assert said in lines[0]
    assert "Traceback" not in result.stderr
