"""Two systems beside each other, the ideas between them, formats from a file."""

import json
import subprocess
import sys

import pytest

from galaxy_mpi import compare
from galaxy_mpi.dtypes import BF16, BFP4, BFP8
from galaxy_mpi.errors import ConfigError
from galaxy_mpi.kernels import Fidelity
from galaxy_mpi.mesh import Mesh
from galaxy_mpi.models import Programs
from galaxy_mpi.models.presets import PRESETS
from galaxy_mpi.studies.comparison import device_figures, rows_of, table, to_dict
from galaxy_mpi.studies.ideas import CLAIMS, IDEAS, Claim, variants
from galaxy_mpi.systems import PRECISIONS, system_of
from galaxy_mpi.systems.optimizations import read_optimizations
from galaxy_mpi.timing import Estimator, Machine

MACHINE, MESH = Machine.load("wormhole_galaxy_6u"), Mesh(8, 4)
MODEL, PRECISION = PRESETS["llama3-8b"], PRECISIONS["performance"]


def test_the_galaxy_is_the_generic_system_with_some_ops_replaced():
    galaxy, other = system_of("galaxy", MESH), system_of("tt_transformers", MESH)
    changed = []
    for mode in ("decode", "prefill"):
        ops, plain = getattr(galaxy, mode), getattr(other, mode)
        for name, make in vars(ops).items():
            if make is not getattr(plain, name):
                changed.append(name)
                # The same place in the program, with other charges or messages.
                assert issubclass(make, getattr(plain, name)), name
    assert changed == [
        *("add_norm", "qkv_heads", "norm_heads", "rotate", "update_cache", "attention"),
        *("merge_heads", "output", "gate_up", "down", "logits", "sample"),
        *("attention", "down", "sample"),
    ]


def test_the_generic_system_does_not_import_the_galaxy():
    code = """
import sys
package = type(sys)("galaxy_mpi.systems")  # without the catalogue, which knows both
import galaxy_mpi
package.__path__ = [galaxy_mpi.__path__[0] + "/systems"]
sys.modules["galaxy_mpi.systems"] = package
import galaxy_mpi.systems.tt_transformers
print([name for name in sys.modules if name.startswith("galaxy_mpi.systems.galaxy")])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_ideas_end_at_the_galaxy_to_the_bit():
    found = variants(MESH)
    device = device_figures(found, MODEL, MACHINE, MESH, PRECISION, users=32, position=200)

    def step(system):
        programs = Programs(MODEL, MESH, system_of(system, MESH), PRECISION, users=32)
        return Estimator(programs, MACHINE).step([200] * 4)

    assert device[0][0] == step("tt_transformers")
    assert device[len(IDEAS)][0] == step("galaxy")
    assert device[len(IDEAS)][1] == 0 < device[0][1] == 9 * MODEL.n_layers + 3
    rows = rows_of(found, device, None)
    assert [row.is_alone for row in rows] == [False] * (1 + len(IDEAS)) + [True] * len(IDEAS)
    product = 1.0
    for row in rows[1 : 1 + len(IDEAS)]:
        product *= row.device_gain
    assert product == pytest.approx(device[0][0].seconds / device[len(IDEAS)][0].seconds)
    for number in range(len(IDEAS)):  # every one of them makes the device faster, by itself
        assert device[len(IDEAS) + 1 + number][0].seconds < device[0][0].seconds
    text = table(rows)
    for idea in IDEAS:
        assert f"+ {idea.name}" in text
    assert all(claim.text in text for claim in CLAIMS.values())
    assert len(to_dict(rows)) == len(rows)


def test_a_claim_is_met_anywhere_in_its_range():
    claim = Claim("20-30 %", 1.2, 1.3)
    assert claim.factor(1.25) == 1
    assert claim.factor(1.1) == pytest.approx(0.5)
    assert claim.factor(1.6) == pytest.approx(2)


def test_compare_writes_rows_and_a_picture(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    files = [tmp_path / name for name in ("rows.json", "rows.csv", "rows.png")]
    words = ["--timing-only", "--model", "qwen3-0.6b", "--layers", "2", "--mesh", "2x3"]
    for option, path in zip(("--json", "--csv", "--plot"), files, strict=True):
        words += [option, str(path)]
    assert compare.main(words) == 0
    rows = json.loads(files[0].read_text())["rows"]
    assert len(rows) == 1 + 2 * len(IDEAS) == len(files[1].read_text().splitlines()) - 1
    assert files[2].read_bytes().startswith(b"\x89PNG")
    assert "claimed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--mesh", "1x8"], "meshes of several rows and columns, got 1x8"),
        (["--precision", "float32"], "no precision 'float32' on the device"),
        (["--precision", "accuracy", "--optimizations", "accuracy"], "not both"),
        (["--users", "0"], "--users must be 1 to 32"),
    ],
)
def test_compare_says_in_one_line_what_cannot_be(words, says, capsys):
    assert compare.main(["--timing-only", "--model", "llama3-8b", *words]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


def test_a_row_of_chips_keeps_the_stream_scattered():
    for mesh in (Mesh(1, 8), Mesh(8, 1), Mesh(1, 1)):
        system = system_of("tt_transformers", mesh)
        assert system.is_scattered
        programs = Programs(MODEL, mesh, system, PRECISION, users=32)
        assert programs.shape.stream == MODEL.dim // mesh.n_chips
        assert programs.shape.dim == MODEL.dim
        ops = Estimator(programs, MACHINE).step([100]).by_op_s
        assert ("reduce_scatter_wo" in ops) == (mesh.n_chips > 1)
        assert not any(name.startswith("sum_") for name in ops)
    with pytest.raises(ConfigError, match="no system 'gpu'; choose galaxy, tt_transformers"):
        system_of("gpu", MESH)


def written(tmp_path, decoders):
    path = tmp_path / "formats.json"
    path.write_text(json.dumps({"decoders": decoders}))
    return path


def test_formats_and_fidelities_are_those_of_the_file(tmp_path):
    path = written(
        tmp_path,
        {
            "default": {"precision_cfg": {"ff2": "bfp4"}},
            "1": {
                "precision_cfg": {"WQKV": "BF16", "FF1_FF3": "BFP8", "kv_cache": "bf16"},
                "fidelity_cfg": {"LI_QKV_DECODE": "HIFI4", "sdpa_prefill": "hifi2_fp16"},
            },
        },
    )
    precision = read_optimizations(path, 3)
    assert precision.name == "formats"
    assert precision.is_bfloat16
    first, second, third = (precision.of(layer) for layer in range(3))
    assert first == third
    assert (first.weight("w1"), first.weight("w2"), first.weight("wqkv")) == (BFP4, BFP4, BFP8)
    assert (second.weight("w1"), second.weight("w2"), second.weight("wqkv")) == (BFP8, BFP4, BF16)
    assert (second.kv_cache, second.weight("wo")) == (BF16, BFP8)
    assert second.fidelity("wqkv", "decode") is Fidelity.HIFI4
    assert second.fidelity("wqkv", "prefill") is Fidelity.HIFI2
    assert second.fidelity("sdpa", "prefill") is Fidelity.HIFI2
    assert first.fidelity("sdpa", "prefill") is Fidelity.HIFI4
    assert precision.key != PRECISIONS["performance"].key


@pytest.mark.parametrize(
    ("decoders", "says"),
    [
        ({"0": {"precision_cfg": {"ff4": "bfp8"}}}, "no group 'ff4'; choose ff1_3, ff2, wqkv"),
        ({"0": {"precision_cfg": {"ff2": "fp8"}}}, "ff2 is 'fp8'; choose bfp4, bfp8, bf16"),
        ({"0": {"fidelity_cfg": {"ff2": "lofi"}}}, "no group 'ff2'; choose li_ff1_3, li_ff2"),
        ({"0": {"fidelity_cfg": {"li_ff2": "hifi3"}}}, "'hifi3'; choose lofi, hifi2, hifi4"),
        ({"0": {"formats": {}}}, "no key 'formats'; choose fidelity_cfg, precision_cfg"),
        ({"2": {}}, "names decoder '2'; the model has 0 to 1"),
        ({"0": [1]}, "expected an object"),
        ([], 'has no "decoders"'),
    ],
)
def test_what_a_file_cannot_say_is_refused_with_the_list(tmp_path, decoders, says):
    with pytest.raises(ConfigError) as caught:
        read_optimizations(written(tmp_path, decoders), 2)
    assert says in str(caught.value)


def test_files_that_are_none(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        read_optimizations(tmp_path / "none.json", 2)
    path = tmp_path / "broken.json"
    path.write_text("{")
    with pytest.raises(ConfigError, match="not readable JSON"):
        read_optimizations(path, 2)


def test_formats_of_layers_show_in_device_time(tmp_path):
    """bf16 weights in one layer of 32 are read for twice as long as bfp8's."""
    entry = {"precision_cfg": {"wqkv": "bf16", "wo": "bf16"}}
    changed = read_optimizations(written(tmp_path, {"7": entry}), MODEL.n_layers)
    mesh = Mesh(1, 1)

    def step(precision):
        system = system_of("tt_transformers", mesh)
        programs = Programs(MODEL, mesh, system, precision, users=32)
        return Estimator(programs, MACHINE).step([100]).by_op_s

    before, after = step(PRECISION), step(changed)
    for name in ("qkv_matmul", "wo_matmul"):
        reading = before[name] / MODEL.n_layers
        assert after[name] - before[name] == pytest.approx(reading * (2048 / 1088 - 1), rel=0.05)
    assert after["w2_matmul"] == pytest.approx(before["w2_matmul"], rel=1e-12)
