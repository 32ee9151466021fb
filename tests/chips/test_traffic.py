"""The command galaxy_mpi.traffic: what it prints and writes, and the same traffic with values."""

import csv
import json
import re
from pathlib import Path

import pytest

from galaxy_mpi import traffic
from galaxy_mpi.checkpoints.model_files import model_sizes
from galaxy_mpi.config import RunConfig
from galaxy_mpi.mesh import Mesh
from galaxy_mpi.serving.arrivals import Size
from galaxy_mpi.serving.prompts import Prompts
from galaxy_mpi.timing.run_clock import RunClock
from tests.chips.playing import play

DOCS = (Path(__file__).parents[2] / "docs" / "traffic.md").read_text("utf-8")
QUICK = ["--model", "demo", "--mesh", "2x2", "--batch", "4"]
LOAD = ["--concurrency", "6", "--requests", "9", "--seed", "5"]
LENGTHS = ["--input-tokens", "uniform:5,60", "--output-tokens", "uniform:2,7"]
VALUES = ["--with-values", "--chips-per-rank", "4"]


def figures(tmp_path, *words):
    path = tmp_path / "traffic.json"
    assert traffic.main([*words, "--json", str(path)]) == 0
    return json.loads(path.read_text())


def documented(section):
    table = DOCS.partition(section)[2].partition("|---|---|\n")[2].partition("\n\n")[0]
    cells = [line.split(" | ")[0] for line in table.splitlines()]
    return {key for cell in cells for key in re.findall(r"`(\w+)`", cell)}


@pytest.mark.parametrize("system", ["galaxy", "tt_transformers"])
def test_values_change_no_time(tmp_path, capsys, system):
    words = [*QUICK, *LOAD, *LENGTHS, "--system", system]
    plain = figures(tmp_path, *words)
    found = figures(tmp_path, *words, *VALUES)
    assert "device times of the run agree with these to the last bit" in capsys.readouterr().out
    assert found["device"] == plain["device"]
    assert found["device_bands"] == plain["device_bands"]
    assert found["values"]["device_times_are_equal"] is True
    # Each request on its own, in a plain run, has the same tokens.
    lengths = [len(tokens) for tokens in found["values"]["tokens"]]
    assert sum(lengths) / len(lengths) == found["device"]["output_tokens"]
    with (tmp_path / "requests.csv").open("w") as file:
        assert traffic.main([*words, "--csv", file.name]) == 0
    rows = list(csv.DictReader((tmp_path / "requests.csv").open()))
    prompts = Prompts(model_sizes("demo").vocab_size, seed=5)
    tokens = [prompts.tokens(n, Size(int(row["input_tokens"]), 1)) for n, row in enumerate(rows)]
    run = RunConfig(
        prompt_tokens=tuple(map(tuple, tokens)),
        max_new_tokens=max(lengths),
        mesh=Mesh(2, 2),
        system=system,
        batch=4,
        weights_cache=None,
    )
    for expected, got in zip(play(run)[0].tokens, found["values"]["tokens"], strict=True):
        # A plain run may end where the text does; traffic goes on.
        assert got[: len(expected)] == expected[: len(got)]


def test_places_are_as_many_in_each_column_with_and_without_values(capsys):
    words = ["--model", "demo", "--layers", "1", "--mesh", "1x3", "--batch", "31", "--rate", "1e6"]
    words += ["--requests", "40", "--with-values", "--chips-per-rank", "3"]
    assert traffic.main([*words, "--input-tokens", "9", "--output-tokens", "3"]) == 0
    out = capsys.readouterr().out
    assert "places             33" in out
    assert "agree with these to the last bit" in out


def test_a_run_that_departs_from_the_simulation_is_told(tmp_path, monkeypatch, capsys):
    prefill = RunClock.prefill

    def late(clock, shape, requests):
        prefill(clock, shape, requests)
        clock.times.pass_s[-1] *= 1 + 2**-50

    monkeypatch.setattr(RunClock, "prefill", late)
    assert traffic.main([*QUICK, *LOAD, *LENGTHS, *VALUES]) == traffic.DEVICE_TIMES_DIFFER
    out = capsys.readouterr().out
    assert "device times of passes differ: 9 in the run, 9 simulated; first difference at 1" in out


def test_the_command_prints_and_writes_the_same_figures(tmp_path, capsys):
    words = ["--rate", "3", "--requests", "50", "--layers", "2", "--slo-ttft-ms", "1000"]
    words += ["--csv", str(tmp_path / "a.csv"), "--plot", str(tmp_path / "a.png"), *LENGTHS]
    found = figures(tmp_path, *words)
    text = capsys.readouterr().out
    first = (tmp_path / "traffic.json").read_bytes()
    assert figures(tmp_path, *words) == found
    assert (tmp_path / "traffic.json").read_bytes() == first
    assert found.keys() == documented("## JSON, schema 1") - {"values"}
    assert found["device"].keys() == documented("\n`device`:")
    device, ends = found["device"], found["device_bands"]
    p99, (low, high) = device["ttft_s"]["p99"], ends["ttft_s"]["p99"]
    lines = [line.split() for line in text.splitlines()]
    at = next(n for n, words in enumerate(lines) if words[:4] == ["time", "to", "first", "token"])
    assert [words[-1] for words in lines[at : at + 3]] == [
        f"{seconds * 1e3:.1f}" for seconds in (p99, low, high)
    ]
    assert "50 of 50 requests" in text
    assert max(map(len, text.splitlines())) <= 80
    rows = list(csv.DictReader((tmp_path / "a.csv").open()))
    assert len(rows) == 50
    mean_s = sum(float(row["ttft_s"]) for row in rows) / 50
    assert mean_s == pytest.approx(device["ttft_s"]["mean"])
    for row in rows:
        assert float(row["ttft_low_s"]) <= float(row["ttft_s"]) <= float(row["ttft_high_s"])
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_a_sweep_is_a_row_for_each_rate(tmp_path, capsys):
    words = ["--layers", "2", "--requests", "60", "--sweep", "rate=1,500,nothing,1e4", *LENGTHS]
    words += ["--csv", str(tmp_path / "a.csv"), "--plot", str(tmp_path / "a.png")]
    words += ["--slo-ttft-ms", "40"]
    content = figures(tmp_path, *words)
    assert content["sweep"] == {"rate": ["1", "500", "nothing", "1e4"]}
    assert content.keys() == documented("\nA sweep:")
    found = content["rows"]
    shown = capsys.readouterr().out.splitlines()
    heads = ["rate", "1", "low", "high", "500", "low", "high", "nothing", "1e4"]
    assert [line.split()[0] for line in shown[1:10]] == heads
    assert "nothing: --rate takes a number, got 'nothing'" in shown[12]
    assert max(map(len, shown[:12])) <= 80
    rows = [row for row in found if not row["not_played"]]
    for name in ("ttft_p50_s", "ttft_p99_s", "tokens_per_s", "concurrency"):
        assert [row[name] for row in rows] == sorted(row[name] for row in rows)
    assert rows[0]["goodput_share"] > rows[-1]["goodput_share"]
    alone = figures(tmp_path, *words[:4], *LENGTHS, "--rate", "500", "--slo-ttft-ms", "40")
    assert alone["device"]["ttft_s"]["p99"] == rows[1]["ttft_p99_s"]
    assert alone["device_bands"]["ttft_s"]["p99"][1] == rows[1]["ttft_p99_s_high"]
    assert len(list(csv.DictReader((tmp_path / "a.csv").open()))) == 4
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    capsys.readouterr()
    assert traffic.main([*words, "--json", "-", "--plot", str(tmp_path / "a.svg")]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == found
    assert b"<svg" in (tmp_path / "a.svg").read_bytes()


def test_traces_in_both_forms_are_the_same_traffic(tmp_path, capsys):
    (tmp_path / "a.csv").write_text(
        "arrival_s,input_tokens,output_tokens,prefix,prefix_tokens,cancel_s\n"
        "0.5,300,4,chat,256,\n"
        "0,300,4,chat,256,\n"
        "0.75,50,2000,,,0.05\n"
    )
    lines = [
        {"arrival_s": 0.5, "input_tokens": 300, "output_tokens": 4, "prefix": "chat"},
        {"arrival_s": 0, "input_tokens": 300, "output_tokens": 4, "prefix": "chat"},
        {"arrival_s": 0.75, "input_tokens": 50, "output_tokens": 2000, "cancel_s": 0.05},
    ]
    for line in lines[:2]:
        line["prefix_tokens"] = 256
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    found = [
        figures(tmp_path, "--layers", "2", "--trace", str(tmp_path / name))["device"]
        for name in ("a.csv", "a.jsonl")
    ]
    assert found[0] == found[1]
    assert (found[0]["completed"], found[0]["cancelled"]) == (2, 1)
    assert found[0]["cached_tokens"] == 256
    capsys.readouterr()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no request"),
        ("arrival_s,input_tokens\n0,5\n", "lacks the field 'output_tokens'"),
        ("arrival_s,input_tokens,output_tokens\n0,5,x\n", "output_tokens must be a whole number"),
        ("arrival_s,input_tokens,output_tokens\n-1,5,5\n", "arrival_s must be a number"),
        ("arrival_s,input_tokens,output_tokens\n0,0,5\n", "line 2: input_tokens must be a whole"),
        (
            "arrival_s,input_tokens,output_tokens\n0,5,5,9\n",
            "more values than the header has names",
        ),
        (
            "arrival_s,input_tokens,output_tokens,priority\n0,5,5,9\n",
            "has an unknown field 'priority'",
        ),
        ('{"arrival_s": 0, "input_tokens": 5', "line 1 is no JSON"),
        (
            '{"arrival_s": 0, "input_tokens": 5, "output_tokens": 5, "prefix": "a"}',
            "prefix_tokens must be 1 to input_tokens (5) with a prefix, else 0, got None",
        ),
    ],
)
def test_a_broken_trace_is_one_line(tmp_path, text, said, capsys):
    path = tmp_path / "trace"
    path.write_text(text)
    assert traffic.main(["--trace", str(path)]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "give one of --rate, --concurrency and --trace"),
        (["--rate", "1", "--concurrency", "3"], "give one of --rate"),
        (["--rate", "0"], "--rate must be above 0"),
        (["--rate", "nan"], "--rate must be above 0"),
        (["--concurrency", "0"], "--concurrency must be 1 to"),
        (["--rate", "1", "--requests", "0"], "--requests must be 1 to"),
        (["--rate", "1", "--input-tokens", "many"], "--input-tokens is a number, uniform:A,B or"),
        (["--rate", "1", "--input-tokens", "0"], "--input-tokens must be whole numbers of 1 to"),
        (["--rate", "1", "--output-tokens", "uniform:9,3"], "needs A at most B"),
        (["--rate", "1", "--output-tokens", "lognormal:9,-3"], "needs a sigma of 0 to 10"),
        (["--rate", "1", "--output-tokens", "lognormal:9"], "--output-tokens is a number"),
        (["--rate", "1", "--slo-ttft-ms", "0"], "--slo-ttft-ms must be above 0, got 0"),
        (["--rate", "1", "--batch", "33"], "--batch must be 1 to 32, got 33"),
        (["--rate", "1", "--page-size", "0"], "--page-size must be 1 to 65536, got 0"),
        (
            ["--rate", "1", "--cache-blocks", "20000"],
            "--cache-blocks 20000: a chip's DRAM has room for",
        ),
        (["--trace", "/no/such"], "--trace /no/such: No such file or directory"),
        (["--sweep", "json=a,b"], "--sweep takes an option and 1 to 100 values"),
        (["--sweep", "rate"], "--sweep takes an option and 1 to 100 values"),
        (["--sweep", "rats=1"], "--sweep: no option 'rats'; did you mean rate?"),
        (["--sweep", "rate=-1,0"], "--rate must be above 0"),
        (["--rate", "1", "--with-values", "--links", "2"], "--links cannot be combined with"),
        (["--rate", "1", "--with-values", "--sweep", "rate=1"], "--sweep and --with-values cannot"),
        (["--rate", "1", "--csv", "/no/such/a.csv"], "/no/such/a.csv cannot be written"),
    ],
)
def test_bad_arguments_are_one_line(words, said, capsys):
    assert traffic.main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("galaxy_mpi: ")
    assert said in err
