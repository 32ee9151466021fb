"""The examples of docs/examples: short, and right in values and in device time."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from galaxy_mpi import Generator, create_model, decode, estimate
from galaxy_mpi.checkpoints import default_prompts
from galaxy_mpi.dtypes import BFP4, BFP8
from galaxy_mpi.errors import ConfigError
from galaxy_mpi.mesh import Mesh
from galaxy_mpi.models import Programs
from galaxy_mpi.models.presets import PRESETS
from galaxy_mpi.program import Choice
from galaxy_mpi.studies.what_if import WhatIf
from galaxy_mpi.systems import PRECISIONS, PassShape, chosen_modules, chosen_system
from galaxy_mpi.timing import Machine
from galaxy_mpi.timing.costs import Costs
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


def test_soft_capped_logits_are_what_the_op_makes_of_logits(tmp_path):
    softcap = example("softcap.py:SYSTEM")
    run, choice = replace(RUN, check=True), Choice("lm_head,softcap", None, "1")
    report = play(run, system=softcap, capture_path=tmp_path, capture=choice)
    assert report.tokens == play(RUN).tokens  # the order of the logits is the same
    first = load_file(tmp_path / "decode-0001.safetensors")
    plain, capped = first["head.lm_head.logits"], first["head.softcap.logits"]
    expected = 30 * np.tanh(plain.astype(np.float64) / 30)
    np.testing.assert_allclose(capped, expected, rtol=1e-5)
    assert not np.array_equal(plain, capped)
    times = [play(DEVICE, system=system).device.times for system in ("galaxy", softcap)]
    longer = [after - before for before, after in zip(*(t.step_s for t in times), strict=True)]
    assert sum(longer) == pytest.approx(times[1].steps.by_op_s["softcap"])


def test_every_row_of_a_pass_has_soft_capped_logits():
    softcap = example("softcap.py:SYSTEM")
    programs = Programs(PRESETS["llama3-70b"], Mesh(2, 2), softcap, PRECISIONS["float32"], users=2)
    work = PassShape.of_prompt(40)
    for program in (programs.decode(), *(programs.prefill(work, all_rows=all_rows)
                                         for all_rows in (False, True))):  # fmt: skip
        assert "softcap" in {use.op.name for use in program.uses}


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
        ("links=1", "--set is machine.NAME=VALUE, got 'links=1'; did you mean machine.links=1?"),
        ("linkz=1", "--set is machine.NAME=VALUE, got 'linkz=1'$"),
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
    unreadable = tmp_path / "unreadable.py"
    unreadable.write_text("SYSTEM = 1\ndef f(:\n")
    other = tmp_path / "other.py"
    other.write_text("SYSTEM = 1\n")
    good = tmp_path / "good.py"
    good.write_text("from galaxy_mpi.systems import GALAXY as MINE\n")
    for option, value, said in (
        ("--system", f"{other}", "no System in it .*other.py:NAME.; it has no System"),
        ("--system", f"{good}", "no System in it .*; it has MINE"),
        ("--system", f"{path}:SYSTEM", "KeyError: 'x', line 2 of"),
        ("--system", f"{unreadable}:SYSTEM", r"SyntaxError: .* \(unreadable.py, line 2\)$"),
        ("--system", f"{other}:SYSTEM", "is not a System but int"),
        ("--system", f"{other}:NONE", "has no 'NONE'; it has SYSTEM"),
        ("--system", f"{tmp_path}/none.py:S", "no file"),
        ("--system", f"{tmp_path}/none.py", "none.py; FILE.py:NAME is a Python file and the name"),
        ("--attention-class", f"{other}:SYSTEM", "is not a subclass of"),
        ("--attention-class", "x", "is FILE.py:NAME"),
        ("--norm-class", f"{other}:SYSTEM", "not a subclass of galaxy_mpi.systems.RMSNorm"),
        ("--rope-class", f"{other}:SYSTEM", "not a subclass of galaxy_mpi.kernels.RotaryTable"),
    ):
        command = ["--mesh", "1x1", "--chips-per-rank", "1", option, value]
        with pytest.raises(ConfigError, match=said):
            decode.run_config(decode.build_parser().parse_args(command))
