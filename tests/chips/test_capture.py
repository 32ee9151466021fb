"""Values behind ops, kept and compared; golden tokens."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from galaxy_mpi import accuracy, decode, diff
from galaxy_mpi.engine.golden import Golden
from galaxy_mpi.errors import ConfigError
from galaxy_mpi.mesh import Mesh
from galaxy_mpi.models import Layout
from galaxy_mpi.program import Choice
from galaxy_mpi.studies.against import other_run
from galaxy_mpi.studies.differences import compare_captures
from galaxy_mpi.systems import GALAXY, Modules, RMSNorm
from galaxy_mpi.systems.ops.reduce import FusedReduce
from tests.chips.changes import RUN, play, with_decode

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
ALL = Choice(steps="p1-3,1-2")
COMMAND = [
    *("--mesh", "2x2", "--chips-per-rank", "4", "--layers", "2"),
    *("--batch", "4", "--max-new-tokens", "4", "--quiet"),
]


def test_values_on_a_mesh_are_those_of_one_chip(tmp_path):
    """Whole tensors, joined from parts of all kinds, in float32."""
    play(RUN, capture_path=tmp_path / "mesh", capture=ALL)
    one = replace(RUN, mesh=Mesh(1, 1))
    play(one, capture_path=tmp_path / "one", capture=ALL)
    found = compare_captures(tmp_path / "mesh", tmp_path / "one")
    names = {one.name for one in found.found}
    assert {"0.qkv_heads.q", "1.w2.out", "0.gate_up.act", "head.lm_head.logits"} <= names
    assert {one.run for one in found.found} == {
        *(f"prefill-000{n}" for n in (1, 2, 3)),
        "decode-0001",
        "decode-0002",
    }
    assert min(one.pcc for one in found.found) > 0.99999
    # Candidates are of each row: nothing else has another shape.
    assert {name.split(": ")[1] for name in found.only_in_one} <= {
        "head.sample.values",
        "head.sample.tokens",
    }


def test_only_what_was_chosen_is_kept(tmp_path):
    choice = Choice("w2,qkv_heads.k", "1", "2")
    play(RUN, capture_path=tmp_path, capture=choice)
    (path,) = tmp_path.iterdir()
    assert path.name == "decode-0002.safetensors"
    assert set(load_file(path)) == {"1.w2.out", "1.qkv_heads.k"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"ops": "w9"}, "no op 'w9' to capture; choose .*attention"),
        ({"layers": "7"}, "layers are 0 to 1"),
        ({"layers": "x"}, "--capture-layers is numbers"),
        ({"layers": "0-99999999"}, "layers are 0 to 1"),
        ({"steps": "1,px"}, "--capture-steps is numbers"),
        ({"steps": "1-"}, "--capture-steps is numbers"),
        ({"steps": "1-" + 5000 * "9"}, "--capture-steps is numbers"),
        ({"steps": "p0"}, "counts from 1"),
        ({"steps": "5-2"}, "from its smaller number; got '5-2'"),
    ],
)
def test_what_cannot_be_chosen_is_refused(tmp_path, options, said):
    with pytest.raises(ConfigError, match=said):
        play(RUN, capture_path=tmp_path, capture=Choice(**options))


def test_steps_that_do_not_run_are_told(tmp_path, caplog):
    caplog.set_level("WARNING", "galaxy_mpi")
    files = ("--capture", str(tmp_path / "values"), "--trace", str(tmp_path / "trace.json"))
    wanted = ("--capture-steps", "p5,100-100000000", "--trace-steps", "100")
    assert decode.main([*COMMAND[:-1], *files, *wanted]) == 0  # not quiet
    had = "names nothing that ran; this run has had passes up to p4 and steps up to 3"
    told = [record.getMessage() for record in caplog.records]
    assert told == [
        f"galaxy_mpi: --capture-steps p5,100-100000000 {had}",
        f"galaxy_mpi: --trace-steps 100 {had}",
    ]


def test_options_without_effect_are_told(caplog):
    caplog.set_level("WARNING", "galaxy_mpi")
    play(RUN, trace_steps="3-4", seed=1234)
    assert caplog.messages[:2] == [
        "galaxy_mpi: --trace-steps 3-4 has no effect without --trace, --trace-host, --profile-csv "
        "or --report",
        "galaxy_mpi: --seed 1234 has no effect at temperature 0; add --temperature",
    ]


class Off(FusedReduce):
    """A thousandth too much in one column of one row of users, in the second layer."""

    def bind(self, chip, x, weight):
        out = super().bind(chip, x, weight)
        if weight.layer == 1 and chip.col == 1:
            chip.call(np.add, out[0], np.float32(1e-3), out[0])
        return out


def test_diff_names_the_op_the_layer_and_the_chip(tmp_path, capsys):
    play(RUN, capture_path=tmp_path / "a", capture=ALL)
    play(RUN, system=with_decode(down=Off), capture_path=tmp_path / "b", capture=ALL)
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    assert diff.main([a, a]) == 0
    capsys.readouterr()
    assert diff.main([b, a, "--json", "-"]) == 1
    found = json.loads(capsys.readouterr().out)
    first = found["first"]
    assert (first["run"], first["op"], first["layer"]) == ("decode-0001", "w2", 1)
    assert first["chip"] == "(*, 1)"
    assert first["largest"] == pytest.approx(1e-3, rel=1e-2)
    by_layer = {entry["layer"]: entry["largest"] for entry in found["by_layer"]}
    assert by_layer[1] >= first["largest"]
    assert found["schema_version"] == 1
    assert diff.main([b, a]) == 1
    assert "first to differ: w2 of layer 1 (1.w2.out) in decode-0001" in capsys.readouterr().out
    assert diff.main([a, str(tmp_path / "none")]) == 2
    assert diff.main([a]) == 2
    # For CI, where a change may move last bits but no more.
    least = min(entry["pcc"] for entry in found["by_op"])
    assert 0.9 < least < 1
    for bound, code in ((0.9, 0), (least, 0), ((1 + least) / 2, 1), (1.0, 1)):
        assert diff.main([b, a, "--require-pcc", str(bound)]) == code
    assert diff.main([a, a, "--require-pcc", "1"]) == 0
    for bound in ("1.5", "-0.1", "nan"):
        capsys.readouterr()
        assert diff.main([a, a, "--require-pcc", bound]) == 2
        assert f"--require-pcc must be 0 to 1, got {float(bound)}" in capsys.readouterr().err
    one_layer = tmp_path / "c"
    play(RUN, capture_path=one_layer, capture=Choice("w2", "0", "1"))
    capsys.readouterr()
    assert diff.main([b, str(one_layer), "--require-pcc", "0"]) == 1
    assert "fails --require-pcc: " in capsys.readouterr().err


def test_golden_tokens_are_compared(tmp_path, capsys):
    golden = tmp_path / "golden.json"
    options = [*COMMAND, "--golden", str(golden)]
    assert decode.main(options) == 2  # there is no such file
    assert decode.main([*options, "--update-golden"]) == 0
    assert decode.main(options) == 0
    kept = json.loads(golden.read_text())
    kept["tokens"][2][1] += 1
    golden.write_text(json.dumps(kept))
    capsys.readouterr()
    assert decode.main(options) == 1
    lines = capsys.readouterr().out.splitlines()
    (at,) = (n for n, line in enumerate(lines) if line.startswith("1 of 4 users differ"))
    right = kept["tokens"][2][1]
    assert lines[at + 2].split() == ["2", "1", str(right), str(right - 1)]
    golden.write_text('{"decoders": {')
    assert decode.main(options) == 2
    assert "golden.json is not readable JSON: Expecting property" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["{}", '{"tokens": {"": 1}}', '{"tokens": [["a"]]}'])
def test_a_golden_file_has_tokens_of_users(tmp_path, text):
    (tmp_path / "golden.json").write_text(text)
    with pytest.raises(ConfigError, match="was not written by decode --json"):
        Golden.read(tmp_path / "golden.json")


def test_a_golden_file_of_a_longer_run_is_told_as_such():
    golden = Golden(Path("run.json"), [[1, 2, 3, 4], [5, 6], [7, 8, 9, 10]])
    assert golden.differences([[1, 2], [5, 6], [7, 8]]) == [
        "run.json has 4 tokens per user, this run 2 (--max-new-tokens); the first 2 are the same"
    ]
    assert golden.differences([[1, 2], [5, 7], [7, 8]])[0] == "3 of 3 users differ from run.json"
    assert golden.differences([[1, 2, 3, 4, 5], [5, 6], [7, 8, 9, 10, 11]])[0].endswith(
        "this run 5 (--max-new-tokens); the first 4 are the same"
    )
    # A user who ended earlier than before differs.
    assert golden.differences([[1, 2, 3, 4], [5], [7, 8, 9, 10]])[0].startswith("1 of 3 users")
    assert golden.differences(golden.tokens) == []


def test_against_another_precision_runs_both(tmp_path, capsys):
    path = tmp_path / "run.json"
    assert decode.main([*COMMAND, "--against", "float32", "--json", str(path)]) == 0
    found = json.loads(path.read_text())["against"]
    assert found["tokens"] == 16
    assert 8 <= found["same_tokens"] <= 16
    # float32 is closer than the worst format, and not the same.
    worst = min(entry["pcc"] for entry in found["by_op"])
    assert 0.9 < worst < 1
    assert found["first"]["layer"] == 0
    assert "against float32" in capsys.readouterr().out
    assert decode.main([*COMMAND, "--against", "flaot32"]) == 2
    assert "--against flaot32: no such file; name one, or performance" in capsys.readouterr().err


def test_against_a_system_is_without_this_runs_classes(tmp_path):
    """Both runs had the same attention before, so nothing differed."""
    path, example = tmp_path / "run.json", EXAMPLES / "alibi.py"
    options = ["--attention-class", f"{example}:AlibiAttention", "--against", "galaxy"]
    assert decode.main([*COMMAND, *options, "--json", str(path)]) == 0
    first = json.loads(path.read_text())["against"]["first"]
    assert (first["op"], first["layer"]) == ("attention", 0)


def test_what_is_named_replaces_what_it_decides():
    plain = replace(RUN, precision="performance", system=GALAXY)
    modules = Modules(norm_class=type("Norm", (RMSNorm,), {}))
    of_system = {"modules": modules, "layout_class": type("Mine", (Layout,), {})}
    of_system |= {"collectives": "ring", "math_fidelity": False}
    changed = replace(plain, formats="decode.wo_sum=bfp4", **of_system)
    assert other_run(changed, "galaxy") == replace(plain, system="galaxy")
    kept = replace(plain, precision="accuracy", **of_system)
    assert other_run(changed, "accuracy") == kept


@pytest.mark.parametrize("other", ["tt_transformers", "galaxy"])
def test_a_system_that_arranges_chips_differently_is_refused(other, capsys):
    ours = "galaxy" if other == "tt_transformers" else "tt_transformers"
    flat = ["--mesh", "1x4", "--chips-per-rank", "4", "--system", ours, "--against", other]
    assert decode.main([*COMMAND, *flat]) == 2
    said = capsys.readouterr().err
    assert f"--against {other}: it uses the 1x4 mesh as " in said
    assert "compare two runs with --capture and galaxy-mpi diff" in said


def test_accuracy_tells_ops_and_layers_apart(tmp_path, capsys):
    """Given the same tokens: coarser formats lose more in every layer, float32 nothing."""
    path = tmp_path / "accuracy.json"
    text = str(Path(__file__).parents[2] / "benchmarks" / "prose.txt")
    small = ["--mesh", "2x2", "--chips-per-rank", "4", "--layers", "2", "--text", text]
    short = [*small, "--tokens", "24", "--prefill", "16"]
    assert accuracy.main([*short, "--by-op", "p1,1-2", "--json", str(path)]) == 0
    told = capsys.readouterr().out
    rows = {row["precision"]: row for row in json.loads(path.read_text())["precisions"]}
    assert "by_op" not in rows["float32"]
    assert "outputs of ops, performance against float32:" in told
    losses = {}
    for name in ("performance", "accuracy"):
        entries = rows[name]["by_op"]
        # Ops of the pass and of steps, as in decode --capture and galaxy-mpi program.
        assert {"qkv_heads", "w2", "ffn_add", "merge_heads", "rms_norm_mlp"} <= {
            entry["op"] for entry in entries
        }
        assert all(entry["pcc"] > 0.98 for entry in entries)
        losses[name] = {entry["layer"]: entry["relative"] for entry in rows[name]["by_layer"]}
    assert losses["performance"].keys() == {0, 1, "head"}
    for layer, loss in losses["accuracy"].items():
        assert 0.001 < loss < losses["performance"][layer]


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ("9", "this text has pass p1 and 7 steps"),
        ("p2,8-9", "this text has pass p1 and 7 steps"),
        ("5:2", "--by-op is numbers and ranges, as p1,1-3; got '5:2'"),
        ("5-2", "a range from its smaller number; got '5-2'"),
        ("-3", "--by-op is numbers and ranges, as p1,1-3; got '-3'"),
        ("x", "--by-op is numbers and ranges, as p1,1-3; got 'x'"),
    ],
)
def test_wrong_steps_are_found_before_the_reference(steps, said, capsys, monkeypatch):
    def never(*arguments):
        raise AssertionError("transformers was asked")

    monkeypatch.setattr(accuracy, "reference_answers", never)
    text = str(Path(__file__).parents[2] / "benchmarks" / "prose.txt")
    words = ["--mesh", "1x1", "--chips-per-rank", "1", "--layers", "1", "--text", text]
    assert accuracy.main([*words, "--tokens", "24", "--prefill", "16", f"--by-op={steps}"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("galaxy_mpi: ")
    assert said in told


def test_the_relative_error_is_that_of_the_whole_tensor(tmp_path):
    ours, theirs = np.array([3.0, 4.0, 0.0], np.float32), np.array([3.0, 0.0, 0.0], np.float32)
    entry = {"name": "0.w2.out", "layer": 0, "op": "w2", "output": "out", "cut": [[]]}
    about = {"galaxy_mpi": json.dumps({"mesh": "1x1", "values": [entry]})}
    for name, values in (("a", ours), ("b", theirs)):
        save_file({"0.w2.out": values}, tmp_path / f"{name}.safetensors", about)
    (found,) = compare_captures(tmp_path / "a.safetensors", tmp_path / "b.safetensors").found
    assert (found.relative, found.largest, found.scale) == (pytest.approx(4 / 3), 4, 3)
