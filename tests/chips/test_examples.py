"""The examples of docs/examples: short, and right in values and in device time."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from galaxy_mpi import Generator, compare, create_model, decode, estimate, pareto
from galaxy_mpi.checkpoints import default_prompts
from galaxy_mpi.dtypes import BFP4, BFP8
from galaxy_mpi.errors import ConfigError
from galaxy_mpi.mesh import Mesh
from galaxy_mpi.models import Layout, chosen_layout
from galaxy_mpi.program import Choice
from galaxy_mpi.studies.differences import compare_captures
from galaxy_mpi.studies.what_if import WhatIf
from galaxy_mpi.systems import chosen_modules, chosen_system
from galaxy_mpi.systems.galaxy import GALAXY
from galaxy_mpi.systems.ops.prefill_matmul import PrefillGateUp
from galaxy_mpi.timing import Costs, Machine
from tests.chips.changes import RUN, play

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
DEVICE = replace(RUN, precision="performance", mesh=Mesh(4, 1))


def example(name):
    return chosen_system(str(EXAMPLES / name))


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_an_example_is_short(path):
    lines = [line for line in path.read_text().splitlines() if line.strip()]
    assert len(lines) < 40
    assert f"({path.name})" in (EXAMPLES / "README.md").read_text()


def test_alibi_is_what_torch_makes_of_its_biases():
    torch = pytest.importorskip("torch")
    alibi = chosen_modules(f"{EXAMPLES}/alibi.py:AlibiAttention").attention_class()
    alibi.n_heads, alibi.heads = 8, (4, 5, 6, 7)  # the second row of two
    rng = np.random.default_rng(1)
    q, k, v = (rng.normal(size=s).astype(np.float32) for s in ((5, 4, 16), (2, 9, 16), (2, 9, 16)))
    start = 2
    bias = np.full((4, 5, 9), -np.inf)
    for number, slope in enumerate((1 / 32, 1 / 64, 1 / 128, 1 / 256)):
        for row in range(5):
            for key in range(start + row + 1):
                bias[number, row, key] = -slope * (start + row - key)
    right = torch.nn.functional.scaled_dot_product_attention(
        torch.tensor(q).swapaxes(0, 1)[None],
        *(torch.tensor(kv).repeat_interleave(2, 0)[None] for kv in (k, v)),
        attn_mask=torch.tensor(bias, dtype=torch.float32)[None],
    )[0].swapaxes(0, 1)
    np.testing.assert_allclose(alibi.prefill(q, k, v, start=start), right.numpy(), atol=2e-6)
    last = alibi.decode(q[4:], k[None], v[None], np.array([start + 4]))
    np.testing.assert_allclose(last, right.numpy()[4:], atol=2e-6)


def test_alibi_knows_its_heads_on_any_mesh_and_costs_what_attention_costs():
    modules = chosen_modules(f"{EXAMPLES}/alibi.py:AlibiAttention")
    one = play(RUN, mesh=Mesh(1, 1), modules=modules)
    for mesh in (Mesh(2, 2), Mesh(3, 1)):  # heads are padded on three rows
        run = replace(RUN, mesh=mesh, modules=modules, check=True)
        assert play(run).tokens == one.tokens
    assert play(RUN).tokens != one.tokens
    timed = [play(DEVICE, modules=m).device.times for m in (DEVICE.modules, modules)]
    assert timed[0].step_s == timed[1].step_s


def captured(run, folder, **more):
    """Return the outputs of w2 in the first step."""
    from safetensors.numpy import load_file

    choice = Choice("w2", None, "1")
    play(run, capture_path=folder, capture=choice, **more)
    return load_file(folder / "decode-0001.safetensors")


def test_a_tree_adds_the_same_and_takes_what_it_is_charged(tmp_path):
    tree = example("tree_all_reduce.py:SYSTEM")
    for rows in (1, 2, 3, 4):
        run = replace(RUN, mesh=Mesh(rows, 1), check=True)
        assert play(run, system=tree).tokens == play(RUN, mesh=Mesh(1, 1)).tokens
    # Rounded sums of pairs: other bits than all at once, as near.
    ours = captured(DEVICE, tmp_path / "tree", system=tree)["0.w2.out"]
    usual = captured(DEVICE, tmp_path / "usual")["0.w2.out"]
    assert not np.array_equal(ours, usual)
    assert np.array_equal(ours, BFP8.round(ours))
    np.testing.assert_allclose(ours, usual, atol=np.abs(usual).max() / 32)
    # w2's op: the wire in the middle passes 3 blocks on 4 links, the sums are 2 deep.
    report = play(DEVICE, system=tree)
    machine = Machine.load("wormhole_galaxy_6u")
    assert "tree_all_reduce_w2" in report.device.times.steps.by_op_s
    assert "all_reduce_w2" not in report.device.times.steps.by_op_s
    what_if = WhatIf(
        model="demo", mesh="4x1", layers=2, users=4, input_tokens=40, new_tokens=2, system=tree
    )
    costs_s = 3 * 32 * 256 / 1024 * 1088 / (machine.links * machine.link_bytes_per_s)
    (cross,) = {
        charge
        for _, charge in what_if.programs.decode().charges(Costs(machine))
        if charge.__class__.__name__ == "Cross" and charge.name == "tree_all_reduce_w2"
    }
    assert cross.wire_s == pytest.approx(costs_s)


def test_a_bfp4_wire_carries_bfp4_in_half_the_time(tmp_path):
    narrow = example("bfp4_wire.py:SYSTEM")
    ours = captured(DEVICE, tmp_path / "narrow", system=narrow)["0.w2.out"]
    usual = captured(DEVICE, tmp_path / "usual")["0.w2.out"]
    assert np.array_equal(ours, BFP4.round(ours))
    assert not np.array_equal(usual, BFP4.round(usual))
    # Of a tile's 1,088 bytes 576 are left; 16 tiles a layer, two layers, less the head's.
    bytes_of = {
        name: play(DEVICE, system=system).device.times.steps.link_bytes["column"]
        for name, system in (("usual", "galaxy"), ("narrow", narrow))
    }
    n_steps, blocks = 2, 3 / 2
    saved = n_steps * 2 * 2 * 8 * blocks * (1088 - 576)
    assert bytes_of["usual"] - bytes_of["narrow"] == pytest.approx(saved / _links(), rel=1e-9)


def _links():
    return Machine.load("wormhole_galaxy_6u").links


def test_one_dimension_gives_the_tokens_of_two(capsys):
    one_d = example("one_dimension.py:SYSTEM")
    run = replace(RUN, system=one_d, check=True)
    assert run.working_mesh == Mesh(4, 1)
    assert play(run).tokens == play(RUN).tokens
    assert play(run, precision="performance").device is not None
    options = ["--model", "llama3-70b", "--system", f"{EXAMPLES}/one_dimension.py:SYSTEM"]
    assert estimate.main(options) == 0
    said = capsys.readouterr().out
    assert "1-D ring, performance" in said
    # 32 chips add in one ring: every sum passes more wires than on 8x4.
    usual, long_ring = (
        WhatIf(system=system).report["device"]["decode_step_s"] for system in ("galaxy", one_d)
    )
    assert long_ring > 1.5 * usual


def test_constants_are_set_from_outside(tmp_path):
    def step_s(**options):
        return WhatIf(model="llama3-8b", **options).report["device"]["decode_step_s"]

    usual, slow, named = (
        step_s(constants=constants)
        for constants in (
            (),
            ("machine.link_bytes_per_s=6.25e9",),
            ("machine.links=2", "machine.topology=line"),
        )
    )
    assert usual < slow
    assert named == step_s(links=2, topology="line")
    path = tmp_path / "machine.yaml"
    constant = "{value: 125e+9, unit: bytes/s, source: a test}"
    path.write_text(
        f"name: test\nextends: wormhole_galaxy_6u\nconstants:\n  dram_bytes_per_s: {constant}\n"
    )
    assert Machine.load(str(path)).dram_bytes_per_s == 125e9
    for text, said in (
        ("machine.link_bytes=1", "choose l1_bytes, link_bytes_per_s"),
        ("links=1", "--set is machine.NAME=VALUE"),
        ("machine.links=no", "needs a number above 0, got 'no'"),
    ):
        with pytest.raises(ConfigError, match=said):
            WhatIf(constants=(text,))


PARTS = '''
import numpy as np

from galaxy_mpi.kernels import RotaryTable
from galaxy_mpi.systems import RMSNorm


class MeanNorm(RMSNorm):
    """Divides by the mean size of the values, not by their root mean square."""

    def statistics(self, x_BD):
        return np.abs(x_BD).sum(axis=1)

    def normalise(self, x_BD, total_B, gain_D):
        return x_BD / (total_B[:, None] / self.dim + self.eps) * gain_D


class Interpolated(RotaryTable):
    """Positions twice as close: 40 rotate as 20 do."""

    def __init__(self, inv_freq, round):
        super().__init__(inv_freq / 2, round)
'''


def test_norm_and_rotary_table_come_from_files(tmp_path):
    path, report = tmp_path / "parts.py", tmp_path / "run.json"
    path.write_text(PARTS)
    usual = ["--mesh", "2x2", "--chips-per-rank", "4", "--layers", "2", "--batch", "2", "--quiet"]
    usual += ["--max-new-tokens", "5", "--precision", "float32", "--json", str(report)]
    tokens = {}
    for name in ("", "norm", "rope"):
        part = {"": [], "norm": ["--norm-class", f"{path}:MeanNorm"]}.get(
            name, ["--rope-class", f"{path}:Interpolated"]
        )
        assert decode.main([*usual, *part]) == 0
        found = json.loads(report.read_text())
        tokens[name] = found["tokens"]
        assert found["run"]["config"]["modules"]["norm_class"] == (
            "MeanNorm" if name == "norm" else "RMSNorm"
        )
    modules = chosen_modules(norm=f"{path}:MeanNorm", rope=f"{path}:Interpolated")
    for name, classes in (
        ("norm", {"norm_class": modules.norm_class}),
        ("rope", {"rope_class": modules.rope_class}),
    ):
        model = create_model("demo", mesh="1x1", optimizations="float32", n_layers=2, **classes)
        with Generator(model) as generator:
            made = generator.generate(default_prompts()[:2], max_new_tokens=5)
        assert [list(found.tokens) for found in made] == tokens[name] != tokens[""]


def test_a_file_that_has_no_system_is_refused_in_one_line(tmp_path, capsys):
    path = tmp_path / "broken.py"
    path.write_text("SYSTEM = 1\nraise KeyError('x')\n")
    other = tmp_path / "other.py"
    other.write_text("SYSTEM = 1\n")
    for option, value, said in (
        ("--system", f"{path}:SYSTEM", "KeyError: 'x', line 2 of"),
        ("--system", f"{other}:SYSTEM", "is not a System but int"),
        ("--system", f"{other}:NONE", "has no 'NONE'; it has SYSTEM"),
        ("--system", f"{tmp_path}/none.py:S", "no file"),
        ("--attention-class", f"{other}:SYSTEM", "is not a subclass of"),
        ("--attention-class", "x", "is FILE.py:NAME"),
        ("--norm-class", f"{other}:SYSTEM", "not a subclass of galaxy_mpi.systems.RMSNorm"),
        ("--rope-class", f"{other}:SYSTEM", "not a subclass of galaxy_mpi.kernels.RotaryTable"),
    ):
        command = ["--mesh", "1x1", "--chips-per-rank", "1", option, value]
        with pytest.raises(ConfigError, match=said):
            decode.run_config(decode.build_parser().parse_args(command))


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
