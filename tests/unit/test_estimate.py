"""The commands estimate, validate and program: what they print, write and refuse."""

import csv
import json
import re

import pytest

from galaxy_mpi import estimate, validate
from galaxy_mpi.program import __main__ as program_command
from galaxy_mpi.timing import Machine


def test_the_command_prints_and_writes_the_same_figures(tmp_path, capsys):
    path = tmp_path / "out.json"
    arguments = ["--layers", "2", "--new-tokens", "3", "--model", "demo"]
    assert estimate.main([*arguments, "--json", str(path)]) == 0
    text = capsys.readouterr().out
    first = path.read_bytes()
    assert estimate.main([*arguments, "--json", str(path)]) == 0
    assert path.read_bytes() == first
    figures = json.loads(first)["device"]
    assert figures["steps"] == 3
    assert f"{figures['decode_step_s'] * 1e3:.3f} ms" in text
    by_op_s = sum(figures["by_op_s"].values())
    assert by_op_s == pytest.approx(figures["decode_step_s"], rel=1e-6)


def test_a_slow_chip_makes_all_wait_and_a_slow_link_its_groups(tmp_path, capsys):
    def figures(*extra):
        path = tmp_path / "out.json"
        arguments = ["--layers", "4", "--new-tokens", "1", "--json", str(path), *extra]
        assert estimate.main(arguments) == 0
        return json.loads(path.read_text())["device"]

    plain = figures()
    slow_chip = figures("--slow-chip", "5,2,2")
    assert slow_chip["decode_step_s"] > 1.3 * plain["decode_step_s"]
    # Chip (0, 0) is not slow: its own ops take as long as before, it waits in collectives.
    assert slow_chip["by_op_s"]["silu_mul"] == pytest.approx(plain["by_op_s"]["silu_mul"])
    assert slow_chip["by_op_s"]["all_reduce_wo"] > plain["by_op_s"]["all_reduce_wo"]
    slow_link = figures("--slow-link", "0,1,row,10")
    assert slow_link["decode_step_s"] > plain["decode_step_s"]
    assert slow_link["by_op_s"]["qkv_matmul"] == pytest.approx(plain["by_op_s"]["qkv_matmul"])
    capsys.readouterr()


def test_a_sweep_is_a_row_for_each_value(tmp_path, capsys):
    path = tmp_path / "rows.csv"
    arguments = ["--layers", "2", "--new-tokens", "1", "--sweep", "links=1,2,4"]
    assert estimate.main([*arguments, "--csv", str(path)]) == 0
    shown = capsys.readouterr().out.splitlines()
    rows = list(csv.DictReader(path.open()))
    assert [row["links"] for row in rows] == ["1", "2", "4"]
    assert [line.split()[0] for line in shown] == ["links", "1", "2", "4"]
    times = [float(row["decode_step_s"]) for row in rows]
    assert times == sorted(times, reverse=True)


def test_two_sweeps_make_a_grid(tmp_path, capsys):
    words = ["--layers", "2", "--new-tokens", "1"]
    grid = ["--sweep", "links=1,4", "--sweep", "users=8,32"]
    assert estimate.main([*words, *grid, "--json", "-"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["schema_version"] == 1
    assert found["run"]["argv"] == ["galaxy_mpi.estimate", *words, *grid, "--json", "-"]
    assert found["sweep"] == {"links": ["1", "4"], "users": ["8", "32"]}
    points = [(row["links"], row["users"]) for row in found["rows"]]
    assert points == [("1", "8"), ("1", "32"), ("4", "8"), ("4", "32")]
    for links, users in points:
        assert estimate.main([*words, "--links", links, "--users", users, "--json", "-"]) == 0
        alone = json.loads(capsys.readouterr().out)["device"]
        row = found["rows"][points.index((links, users))]
        assert row["decode_step_s"] == alone["decode_step_s"]
    assert estimate.main([*words, *grid, "--csv", "-"]) == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert [float(r["decode_step_s"]) for r in rows] == [r["decode_step_s"] for r in found["rows"]]
    assert estimate.main([*words, *grid]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in shown] == [["links", "users"], *map(list, points)]


def test_memory_of_a_chip_is_the_sum_of_what_it_holds(tmp_path, capsys):
    """Llama-70B: 80 layers of 23.46 MB, the head, a quarter of the embedding; 8 users' caches."""
    path = tmp_path / "out.json"
    assert estimate.main(["--input-tokens", "4000", "--new-tokens", "96", "--json", str(path)]) == 0
    memory = json.loads(path.read_text())["memory"]
    head = 2048 * 16384 * 1088 // 1024
    assert memory["weights_bytes"] == pytest.approx(80 * 23.46e6 + head, rel=1e-3)
    assert memory["embedding_bytes"] == 128256 * 2048 * 2
    assert memory["kv_cache_bytes"] == 80 * 8 * 4096 * 2 * 128 * 1088 // 1024
    assert memory["circular_buffer_bytes"] == 24 * 792_064
    assert estimate.main(["--input-tokens", "131072", "--allow-over-budget", "--layers", "20"]) == 0
    capsys.readouterr()


@pytest.mark.parametrize("machine", ["wormhole_galaxy_4u", "t3000", "n300", "n150"])
def test_other_machines_have_their_own_mesh(machine, capsys):
    arguments = ["--machine", machine, "--model", "llama3-8b", "--new-tokens", "1"]
    assert estimate.main([*arguments, "--layers", "2"]) == 0
    assert f"{Machine.load(machine).mesh}, {machine}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--users", "0"], "--users must be 1 to 32, got 0"),
        (["--users", "33"], "--users must be 1 to 32, got 33"),
        (["--input-tokens", "131073"], "--input-tokens must be 1 to 131072"),
        (["--new-tokens", "0"], "--new-tokens must be 1 to 131072, got 0"),
        (["--model", "gpt-5"], "no model folder at 'gpt-5'"),
        (["--machine", "tpu"], "no machine 'tpu'; choose blackhole_galaxy, n150"),
        (["--topology", "torus"], "--topology: no 'torus'; choose ring, line"),
        (["--links", "0"], "--links must be 1 to 16, got 0"),
        (["--precision", "float32"], "--precision: no 'float32' on the device"),
        (["--mesh", "8"], "a mesh is written ROWSxCOLUMNS"),
        (["--frobnicate"], "unrecognized arguments: --frobnicate (see galaxy-mpi estimate"),
        (["--pricision=x"], "unrecognized arguments: --pricision=x; did you mean --precision? ("),
        (["--users", "four"], "galaxy_mpi: --users takes a whole number, got 'four' (see"),
        (["--users"], "galaxy_mpi: --users needs a value (see"),
        (["--input-tokens", "131072"], "positions per user would fit"),
        (["--mesh", "1x1", "--machine", "n150"], "the weights alone do not fit"),
        (["--circular-buffer-bytes", "40000000"], "bytes of L1"),
        (["--slow-chip", "1,2"], "--slow-chip is ROW,COLUMN,FACTOR"),
        (["--slow-chip", "8,0,2"], "chip (8, 0) is outside the 8x4 mesh"),
        (["--slow-chip", "0,0,-2"], "must be above 1e-6 and below 1e6, got -2.0"),
        (["--slow-link", "0,0,UP,2"], "--slow-link is ROW,COLUMN,row|column,FACTOR"),
        (["--sweep", "links"], "--sweep takes an option and its values"),
        (["--sweep", "links=1,none"], "--links takes a whole number, got 'none'"),
        (["--sweep", "precision=accuracy,float16"], "--precision: no 'float16' on the device;"),
        (["--sweep", "users=1,33"], "--users must be 1 to 32, got 33"),
        (["--sweep", "linkz=1"], "--sweep: no option 'linkz'; did you mean links?"),
        (["--sweep", "speed=1"], "--sweep: no option 'speed'; choose model, users, input-tokens"),
        (["--prefill", "none"], "--prefill is one or all, got 'none'"),
        (["--sweep", "plot=a.png"], "--sweep takes an option and its values"),
        (["--csv", "out.csv"], "--csv writes the rows of a --sweep"),
        (["--sweep", "links=1,2", "--trace", "x"], "--trace is of one point; leave out --sweep"),
        (
            ["--sweep", "links=1", "--sweep", "links=2"],
            "--sweep has links twice; give it one value",
        ),
        (["--slow-link", "0,0,row,2", "--slow-link", "0,0,row,3"], "--slow-link has 0,0,row twice"),
        (["--set", "machine.links=2", "--set", "machine.links=3"], "--set has machine.links twice"),
        (["--set", "machine.links=2.5"], "machine.links needs a whole number from 1 to"),
        (["--formats", "wo_sum=bf16,wo_sum=bfp8"], "--formats has wo_sum twice"),
        (
            ["--sweep", "users=1", "--sweep", "links=1", "--sweep", "layers=1"],
            "at most two options",
        ),
        (["--sweep", "links=1", "--csv", "-", "--json", "-"], "both standard output"),
        (["--layers", "1", "--json", "/"], "/ is a folder; give the name of a file"),
        (["--layers", "1", "--json", "/no/such/out.json"], "/no/such/out.json cannot be written"),
    ],
)
def test_bad_arguments_of_estimate_are_one_line(arguments, said, capsys):
    assert estimate.main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("galaxy_mpi: ")
    assert said in err


def test_validate_predicts_what_a_file_adds(tmp_path, capsys):
    path = tmp_path / "more.json"
    content = {
        "source": {"decode_ops": "somewhere", "end_to_end": "elsewhere", "prefill": "there"},
        "end_to_end": [{"what": "decode step", "input_tokens": 2048, "users": 32, "ms": 18.0}],
        "prefill_s": [{"tokens": 1024, "users": 1, "s": 0.2}],
    }
    path.write_text(json.dumps(content))
    out = tmp_path / "out.json"
    assert estimate.main(["--model", "llama3-70b", "--new-tokens", "1", "--json", str(out)]) == 0
    step_s = json.loads(out.read_text())["device"]["decode_step_s"]
    assert validate.main(["--golden", str(path), "--json", str(out)]) == 0
    text = capsys.readouterr().out
    assert "predicted: 2 of 2 published times are modelled" in text
    assert "elsewhere" in text
    assert max(map(len, text.splitlines())) <= 80
    assert "claimed in an earlier write-up" in text
    assert f"{step_s * 1e3:.2f} ms" in text.split("claimed in an earlier write-up")[1]
    sets = [row["set"] for row in json.loads(out.read_text())["times"]]
    assert sets.count("predicted") == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not readable JSON"),
        ("[]", "is not a JSON object"),
        ("{}", "source must be an object"),
        ('{"source": {"decode_ops": "x"}, "decode_layer_us": {"wo": NaN}}', "wo must be a number"),
        ('{"source": {}, "end_to_end": 7}', "end_to_end must be a list of objects, got 7"),
        ('{"source": {}}', "has no times"),
        (
            '{"source": {"prefill": "x"}, "prefill_s": [{"tokens": 0, "users": 1, "s": 1}]}',
            "prefill_s[0]: tokens must be a whole number from 1 to 131072, got 0",
        ),
    ],
)
def test_a_broken_file_of_measurements_is_one_line(tmp_path, text, said, capsys):
    path = tmp_path / "more.json"
    path.write_text(text)
    assert validate.main(["--golden", str(path)]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


def test_the_program_of_a_step_is_told_in_full_for_one_layer(capsys):
    assert program_command.main(["--model", "demo", "--mesh", "2x2", "--layer", "1"]) == 0
    text = capsys.readouterr().out
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    text = " ".join(text.split())
    assert sum("update_cache" in line for line in lines) == 2  # the op, its charge; of one layer
    assert [line.split()[1:3] for line in lines if "exchanges" in line][:4] == [
        ["layer", str(number)] for number in range(4)
    ]
    assert (
        "reduce_scatter CREATE_HEADS within a row, bfloat16 (16, 512): 16,384 bytes; direct" in text
    )
    assert "104,448-byte weight" in text
    told_ms = float(text.partition(" ms of device time")[0].rpartition(" ")[2])
    of_lines_us = sum(float(line.split()[3 if "layer " in line else 2]) for line in lines
                      if "exchanges" in line)  # fmt: skip
    assert of_lines_us == pytest.approx(told_ms * 1e3, rel=1e-3)
    assert "lm_head" not in text
    assert program_command.main(["--layer", "head"]) == 0
    head = capsys.readouterr().out
    assert "all_reduce LM_HEAD within a row" in head
    assert "update_cache" not in head
    for layer in ("4", "-1", "first"):
        assert program_command.main(["--layer", layer]) == 2
        assert f"--layer must be 0 to 3 or head, got {layer!r}" in capsys.readouterr().err


def test_a_pass_is_told_with_the_algorithms_of_prefill(capsys):
    words = ["--mesh", "2x2", "--system", "tt_transformers", "--prefill", "200"]
    assert program_command.main(words) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "a prefill pass of 200 tokens" in text
    assert "all_reduce WO within a column, bfloat8_b (224, 128): 30,464 bytes" in text
    assert "; line" in text


def test_what_helps_is_told_largest_first(capsys):
    arguments = ["--layers", "2", "--new-tokens", "1", "--what-helps", "--json", "-"]
    assert estimate.main(arguments) == 0
    content = json.loads(capsys.readouterr().out)
    saved = [row["step_s"] for row in content["what_helps"]]
    assert saved == sorted(saved, reverse=True)
    assert 0 < saved[0] < content["device"]["decode_step_s"] / 2


def test_what_does_not_help_saves_0_and_not_minus_0(capsys):
    assert estimate.main(["--layers", "2", "--new-tokens", "1", "--what-helps"]) == 0
    out = capsys.readouterr().out
    assert " 0.0 us    0.0%" in out
    assert not re.search(r"-0\.0+(%| [um]s)", out)
