"""Formats and fidelities of an `--optimizations` file."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from galaxy_mpi import estimate
from galaxy_mpi.dtypes import BF16, BFP4, BFP8
from galaxy_mpi.errors import ConfigError
from galaxy_mpi.kernels import Fidelity
from galaxy_mpi.mesh import Mesh
from galaxy_mpi.models import Programs
from galaxy_mpi.models.presets import PRESETS
from galaxy_mpi.systems import PRECISIONS, Wanted, system_of
from galaxy_mpi.timing import Machine
from galaxy_mpi.timing.estimator import Estimator
from galaxy_mpi.weights import Weight

MACHINE, MESH = Machine.load("wormhole_galaxy_6u"), Mesh(8, 4)
ROW = Mesh(1, 8)
MODEL, PRECISION = PRESETS["llama3-8b"], PRECISIONS["performance"]


def written(tmp_path, decoders):
    path = tmp_path / "formats.json"
    path.write_text(json.dumps({"decoders": decoders}))
    return path


def read(path, model=MODEL, mesh=ROW):
    return Wanted(optimizations=path).on(system_of("tt_transformers", mesh), model)


def test_formats_and_fidelities_are_those_of_the_file(tmp_path):
    path = written(
        tmp_path,
        {
            "default": {"precision_cfg": {"ff2": "bfp4"}},
            "1": {
                "precision_cfg": {"WQKV": "BF16", "kv_cache": "bf16"},
                "fidelity_cfg": {"LI_QKV_DECODE": "HIFI4", "sdpa_prefill": "hifi2_fp16"},
            },
            "2": {"precision_cfg": {}},
            "3": {"fidelity_cfg": {"LI_FF1_FF3": "HIFI2_NOL1ACC", "ACCURACY": "HIFI4_FP32"}},
            "4": {},
        },
    )
    precision = read(path, replace(MODEL, n_layers=6))
    assert precision.name == "formats"
    assert precision.is_bfloat16
    other, first, empty, of_fidelities, nothing, last = map(precision.of, range(6))
    assert other is last is nothing  # the model's own, with the default of the file
    assert (other.weight(Weight.W1), other.weight(Weight.W2), other.weight(Weight.WQKV)) == (
        BFP4,
        BFP4,
        BFP8,
    )
    assert other.fidelity(Weight.W1) is Fidelity.LOFI
    # A named layer has bfp8 and HiFi2 where nothing is said of a group, not the model's own.
    assert (first.weight(Weight.W1), first.weight(Weight.W2), first.weight(Weight.WQKV)) == (
        BFP8,
        BFP8,
        BF16,
    )
    assert (first.kv_cache, first.weight(Weight.WO)) == (BF16, BFP8)
    assert first.fidelity(Weight.W1) is Fidelity.HIFI2
    assert first.fidelity(Weight.WQKV, "decode") is Fidelity.HIFI4
    assert first.fidelity(Weight.WQKV, "prefill") is Fidelity.HIFI2
    assert first.attention_fidelity("prefill") is Fidelity.HIFI2
    assert other.attention_fidelity("prefill") is Fidelity.HIFI4
    # An empty part means just these; a part that is not there means the model's own.
    assert (empty.weight(Weight.W1), empty.fidelity(Weight.W1)) == (BFP8, Fidelity.LOFI)
    assert (of_fidelities.weight(Weight.W1), of_fidelities.fidelity(Weight.W1)) == (
        BFP4,
        Fidelity.HIFI2,
    )
    assert precision.key != PRECISIONS["performance"].key


SHIPPED = Path(__file__).parents[1] / "data"


def test_files_of_the_original_work_as_they_stand():
    llama = read(SHIPPED / "performance_decoder_config_llama3.1-8b.json")
    assert [llama.of(layer).weight(Weight.W1) for layer in (0, 30, 31)] == [BFP4, BFP4, BFP8]
    assert {llama.of(layer).fidelity(Weight.W1) for layer in range(32)} == {Fidelity.LOFI}
    # Layer 36 of a model of 36: it has no effect.
    qwen3_8b = replace(PRESETS["qwen3-32b"], dim=4096, hidden_dim=12_288, n_layers=36)
    qwen = read(SHIPPED / "performance_decoder_config_qwen3-8b.json", qwen3_8b)
    assert len({id(qwen.of(layer)) for layer in range(36)}) == 1
    assert qwen.of(35).weight(Weight.W1) is BFP4
    path = SHIPPED / "performance_decoder_config_qwen3-8b.json"
    wanted = Wanted(optimizations=path)
    assert wanted.note(replace(qwen3_8b, n_layers=37)) is None
    assert wanted.note(qwen3_8b) == (
        f"--optimizations {path}: decoder 36 ignored, because this run has 36 layers, 0 to 35"
    )


def test_decoders_beyond_the_last_layer_are_told_once(tmp_path, caplog):
    path = tmp_path / "file.json"
    path.write_text('{"decoders": {"3": {}, "4": {}, "36": {}, "default": {}}}')
    caplog.set_level("WARNING", "galaxy_mpi")
    command = ["--model", "demo", "--mesh", "2x2", "--optimizations", str(path)]
    for _ in range(2):
        assert estimate.main([*command, "--sweep", "links=1,2"]) == 0
    (note,) = [record.getMessage() for record in caplog.records]
    assert note == (
        f"galaxy_mpi: --optimizations {path}: decoders 4 to 36 ignored, because this run has "
        f"4 layers, 0 to 3"
    )
    # accuracy_...: layers that are not named have what `accuracy` means for the family.
    phi = replace(MODEL, dim=5120, n_layers=40, vocab_size=100_352)
    accurate = read(SHIPPED / "accuracy_decoder_config_phi-4.json", phi)
    assert accurate.of(0).weight(Weight.W1) is accurate.of(1).weight(Weight.W1) is BFP8


@pytest.mark.parametrize(
    ("decoders", "says"),
    [
        ({"0": {"precision_cfg": {"ff4": "bfp8"}}}, "no group 'ff4'; choose ff1_3, ff2, wqkv"),
        ({"0": {"precision_cfg": {"ff2": "fp8"}}}, "ff2 is 'fp8'; choose bfp4, bfp8, bf16"),
        ({"0": {"precision_cfg": {"ff2": "mixed"}}}, "only activation can be mixed, not ff2"),
        ({"0": {"fidelity_cfg": {"ff2": "lofi"}}}, "no group 'ff2'; choose li_ff1_3, li_ff2"),
        ({"0": {"fidelity_cfg": {"li_ff2": "hifi3"}}}, "'hifi3'; choose lofi, hifi2, hifi4"),
        ({"0": {"formats": {}}}, "no key 'formats'; choose fidelity_cfg, precision_cfg"),
        (
            {"last": {}},
            "names decoder 'last'; name decoders by number, and all others with default",
        ),
        ({"0": [1]}, "expected an object"),
        ([], 'has no object "decoders"; a file is for example {"decoders": {"0": {"prec'),
        ({"1": {}, "01": {}}, "names decoder '01'; write numbers without leading zeros"),
    ],
)
def test_what_a_file_cannot_say_is_refused_with_the_list(tmp_path, decoders, says):
    with pytest.raises(ConfigError) as caught:
        read(written(tmp_path, decoders))
    assert says in str(caught.value)


def test_files_that_are_none(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        read(tmp_path / "none.json")
    path = tmp_path / "broken.json"
    path.write_text("{")
    with pytest.raises(ConfigError, match="not readable JSON: .*char 1.; choose"):
        read(path)
    path.write_text('# w2.json\n{"decoders": {}}')
    with pytest.raises(ConfigError, match=r"char 0\); JSON has no comments; choose performance"):
        read(path)


def test_a_key_of_a_file_that_appears_twice_is_an_error(tmp_path):
    path = tmp_path / "twice.json"
    for entry in ('"1": {}, "1": {}', '"1": {"precision_cfg": {"FF2": "BFP4", "FF2": "BFP8"}}'):
        path.write_text(f'{{"decoders": {{{entry}}}}}')
        with pytest.raises(ConfigError, match=r"twice.json: key '(1|FF2)' appears twice in one"):
            read(path)


def test_the_example_in_the_message_about_a_file_is_one(tmp_path):
    path = tmp_path / "example.json"
    path.write_text("{}")
    with pytest.raises(ConfigError) as caught:
        read(path)
    path.write_text(str(caught.value).partition("for example ")[2])
    assert [read(path).of(layer).weight(Weight.W2) for layer in (0, 1)] == [BFP8, BFP8]
    assert read(path).of(0).weight(Weight.W1) is BFP4


def test_formats_of_layers_show_in_device_time(tmp_path):
    """bf16 weights in one layer of 32 are read for twice as long as bfp8's."""
    entry = {"precision_cfg": {"wqkv": "bf16", "wo": "bf16", "ff1_3": "bfp4"}}
    entry["fidelity_cfg"] = {"li_ff1_3": "lofi"}
    mesh = Mesh(1, 1)
    system = system_of("tt_transformers", mesh)
    plain = Wanted("performance").on(system, MODEL)
    changed = read(written(tmp_path, {"7": entry}), MODEL, mesh=mesh)

    def step(precision):
        programs = Programs(MODEL, mesh, system, precision, users=32)
        return Estimator(programs, MACHINE).step([100]).by_op_s

    before, after = step(plain), step(changed)
    for name in ("qkv_matmul", "wo_matmul"):
        reading = before[name] / MODEL.n_layers
        assert after[name] - before[name] == pytest.approx(reading * (2048 / 1088 - 1), rel=0.05)
    assert after["w2_matmul"] == pytest.approx(before["w2_matmul"], rel=1e-12)
