"""A user's own sharding of weights: values, device time, captures, commands."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from galaxy_mpi import Generator, compare, create_model, decode, pareto
from galaxy_mpi.checkpoints import default_prompts
from galaxy_mpi.mesh import Mesh
from galaxy_mpi.models import Layout, chosen_layout
from galaxy_mpi.program import Choice
from galaxy_mpi.studies.differences import compare_captures
from galaxy_mpi.studies.what_if import WhatIf
from galaxy_mpi.systems.galaxy import GALAXY
from galaxy_mpi.systems.ops.prefill_matmul import PrefillGateUp
from tests.chips.changes import RUN, play

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
DEVICE = replace(RUN, precision="performance", mesh=Mesh(4, 1))


def dealt_out():
    return chosen_layout(f"{EXAMPLES}/dealt_out.py:DealtOut")


@pytest.mark.parametrize("mesh", [Mesh(2, 2), Mesh(4, 1), Mesh(3, 2)])
def test_weights_that_are_dealt_out_give_the_same_tokens(mesh, tmp_path):
    run = replace(RUN, mesh=mesh, layout_class=dealt_out(), check=True)
    assert play(run).tokens == play(RUN).tokens
    # A cache of packed shards knows one layout from the other.
    for layout in (Layout, dealt_out(), Layout, dealt_out()):
        kept = replace(RUN, mesh=mesh, layout_class=layout, weights_cache=tmp_path)
        assert play(kept).tokens == play(RUN).tokens
    assert len({path.parent for path in tmp_path.rglob("*.safetensors")}) == 2


def test_a_kv_head_on_two_rows_costs_its_cache_again():
    options = {"model": "llama3-70b", "input_tokens": 4096, "new_tokens": 1}
    usual, dealt = (WhatIf(layout_class=cls, **options) for cls in (Layout, dealt_out()))
    assert dealt.budget.kv_cache_bytes == 2 * usual.budget.kv_cache_bytes
    assert (dealt.programs.shape.heads, dealt.programs.shape.kv_heads) == (8, 2)
    times = [what.report["device"]["decode_step_s"] for what in (usual, dealt)]
    attended = [what.report["device"]["by_op_s"]["attention"] for what in (usual, dealt)]
    # The cache is read once more, at best as fast as DRAM is.
    more = dealt.budget.kv_cache_bytes - usual.budget.kv_cache_bytes
    assert attended[1] - attended[0] > more / usual.emulated_machine.dram_bytes_per_s
    assert times[1] - times[0] > 0.8 * (attended[1] - attended[0])
    margins = [what.report["device"]["decode_step_s_margin"] for what in (usual, dealt)]
    assert margins[0] < margins[1]  # nobody has published it


class LastFirst(Layout):
    """The parts of the stream on the columns are swapped, and so are the values within each."""

    def dim_at(self, col):
        return super().dim_at(self.mesh.cols - 1 - col)[::-1]


@pytest.mark.parametrize(
    ("mesh", "layout"),
    [
        (Mesh(2, 2), dealt_out()),
        (Mesh(2, 2), LastFirst),
        (Mesh(3, 2), dealt_out()),
        (Mesh(3, 2), Layout),  # heads, feed-forward and vocabulary are padded
        (Mesh(1, 4), Layout),
    ],
)
def test_captures_of_other_layouts_and_meshes_are_compared_whole(tmp_path, mesh, layout):
    chosen = Choice(steps="p1,1")
    play(RUN, capture_path=tmp_path / "usual", capture=chosen)
    other = replace(RUN, mesh=mesh, layout_class=layout)
    play(other, capture_path=tmp_path / "other", capture=chosen)
    found = compare_captures(tmp_path / "other", tmp_path / "usual")
    assert len(found.found) > 50
    # Candidates are of each row: nothing else has another shape.
    assert {name.split(".")[1] for name in found.only_in_one} <= {"sample"}
    assert min(one.pcc for one in found.found) > 0.99999
    assert {"act", "q", "k", "mixed", "h", "logits"} <= {
        one.name.rpartition(".")[2] for one in found.found
    }


class Broken(PrefillGateUp):
    """An error in the first column of the feed-forward that chip (1, 0) has."""

    def bind(self, chip, h, w1, w3):
        act = super().bind(chip, h, w1, w3)
        if (chip.row, chip.col) == (1, 0):
            chip.call(np.add, act[:, :1], np.float32(1), act[:, :1])
        return act


def test_an_error_in_another_layout_is_found_on_its_chip(tmp_path):
    """Dealt out in blocks of 32, the first column of row 1 is the model's 32nd, not its 512th."""
    run = replace(RUN, layout_class=dealt_out(), capture=Choice("gate_up", "0", "p1"))
    broken = replace(GALAXY, prefill=replace(GALAXY.prefill, gate_up=Broken))
    play(run, capture_path=tmp_path / "right")
    play(run, capture_path=tmp_path / "wrong", system=broken)
    right, wrong = (
        load_file(tmp_path / name / "prefill-0001.safetensors")["0.gate_up.act"]
        for name in ("right", "wrong")
    )
    assert np.flatnonzero((wrong - right).any(axis=0)).tolist() == [32]
    (found,) = compare_captures(tmp_path / "wrong", tmp_path / "right").found
    assert (found.largest, found.chip) == (pytest.approx(1), "(1, 0)")


def test_compare_and_pareto_take_a_layout(tmp_path, capsys):
    layout = ["--layout", f"{EXAMPLES}/dealt_out.py:DealtOut"]
    path = tmp_path / "told.json"
    # Device time: a kv head on two rows makes every variant read its cache twice.
    timed = ["--timing-only", "--model", "llama3-70b", "--position", "4096", "--json", str(path)]
    seconds = []
    for more in ([], layout):
        assert compare.main([*timed, *more]) == 0
        rows = json.loads(path.read_text())["rows"]
        seconds.append([row["device_step_s"] for row in rows])
    assert all(dealt > usual for usual, dealt in zip(*seconds, strict=True))
    # Values: the tokens are those of every variant of the usual layout.
    small = ["--mesh", "2x2", "--chips-per-rank", "4", "--layers", "1"]
    played = ["--precision", "float32", "--users", "2", "--turns", "1", "--json", str(path)]
    capsys.readouterr()
    assert compare.main([*small, *played, *layout]) == 0
    assert "next tokens of all variants: all equal" in capsys.readouterr().out
    assert json.loads(path.read_text())["run"]["config"]["layout_class"] == "DealtOut"
    text = ["--text", str(EXAMPLES / "README.md"), "--tokens", "8", "--quiet"]
    groups = ("ff1_3", "ff2", "wqkv", "wo", "kv_cache", "activation")
    tried = [f"--try={group}=bf16" for group in groups] + ["--json", str(path)]
    costs = []
    for more in ([], layout):
        assert pareto.main([*small, *text, *tried, *more]) == 0
        costs.append(json.loads(path.read_text())["points"][0]["kv_cache_bytes"])
    assert costs[1] == 2 * costs[0]


def test_a_layout_is_chosen_by_command_and_from_python(tmp_path, capsys):
    report = tmp_path / "run.json"
    command = ["--mesh", "2x2", "--chips-per-rank", "4", "--layers", "1", "--batch", "2", "--quiet"]
    command += ["--max-new-tokens", "2", "--layout", f"{EXAMPLES}/dealt_out.py:DealtOut"]
    assert decode.main([*command, "--json", str(report)]) == 0
    assert re.search(r"layout +DealtOut", capsys.readouterr().out)
    found = json.loads(report.read_text())
    assert found["run"]["config"]["layout_class"] == "DealtOut"
    with (
        Generator(
            create_model("demo", mesh="2x2", optimizations="float32", layout_class=dealt_out())
        ) as ours,
        Generator(create_model("demo", mesh="2x2", optimizations="float32")) as usual,
    ):
        prompts = default_prompts()[:2]
        assert ours.generate(prompts, 3) == usual.generate(prompts, 3)
