"""What every tensor is stored in, on each system: the tables, word by word, and that runs obey.

The expected cells are written down here once more, as they were read in the original.
"""

from dataclasses import replace

import numpy as np
import pytest

from galaxy_mpi.config import RunConfig
from galaxy_mpi.dtypes import BF16, BFP4, BFP8
from galaxy_mpi.engine.planning import make_plan
from galaxy_mpi.engine.teacher import forced_answers
from galaxy_mpi.errors import ConfigError
from galaxy_mpi.kernels import Fidelity
from galaxy_mpi.mesh import Mesh
from galaxy_mpi.mesh.local_transport import LocalTransport
from galaxy_mpi.models import Programs
from galaxy_mpi.models.presets import PRESETS
from galaxy_mpi.systems import PassShape, Wanted, system_of
from galaxy_mpi.systems.formats import MODES, TENSORS, Act, parse
from galaxy_mpi.weights import Weight
from tests.families import write_family

# Per tensor: decode, prefill. `16` bf16, `8` bfp8; `a16`: the group `activation`, or bf16; `-`: no
# such tensor.
ROW_OF_CHIPS = """
layer_input a16 a16 / attention_sum a16 a16 / mlp_sum a16 a16 / last_sum a16 -
first_norm a16 - / attention_norm a16 a16 / mlp_norm a16 a16 / final_norm a16 a16
statistics - - / qkv_product a16 a16 / qkv_sum a16 a16 / head_norm 16 a16 / rotary 16 16
queries - a8 / attention 16 a8 / wo_product 16 a8 / wo_sum 16 a8
gate_up_product a16 a16 / gate_up_sum a16 a16 / act a8 a8 / w2_product a16 a16 / w2_sum a16 a16
logits 8 8 / candidates 16 16
"""

OF_32_CHIPS = """
layer_input a16 a16 / attention_sum 16 16 / mlp_sum a16 a16 / last_sum a16 -
first_norm a16 - / attention_norm a16 a16 / mlp_norm 16 16 / final_norm a16 a16
statistics 16 16 / qkv_product 8 8 / qkv_sum 8 8 / head_norm 16 8 / rotary 16 16
queries - a8 / attention 16 a8 / wo_product 8 a8 / wo_sum 8 8
gate_up_product 8 8 / gate_up_sum 8 8 / act a8 a8 / w2_product 8 8 / w2_sum 8 8
logits 8 8 / candidates 16 16
"""

GALAXY = """
layer_input 16 8 / attention_sum 16 8 / mlp_sum 16 8 / last_sum 8 -
first_norm 16 - / attention_norm 8 8 / mlp_norm 8 8 / final_norm 8 8
statistics 16 16 / qkv_product 16 8 / qkv_sum a16 8 / head_norm 16 16 / rotary 16 16
queries - 8 / attention 16 8 / wo_product 8 8 / wo_sum 8 8
gate_up_product 8 8 / gate_up_sum 8 8 / act a8 a8 / w2_product 8 8 / w2_sum 8 8
logits 8 8 / candidates 16 16
"""

CELLS = {"16": BF16, "8": BFP8, "a16": Act(BF16), "a8": Act(BFP8), "-": None}

WIDE, NARROW, QWEN3 = PRESETS["llama3-70b"], PRESETS["llama3-8b"], PRESETS["qwen3-32b"]


def cells(text):
    found = {}
    for part in text.replace("\n", "/").split("/"):
        if part.strip():
            tensor, decode, prefill = part.split()
            found[tensor] = (CELLS[decode], CELLS[prefill])
    return found


def table_of(system, mesh, model):
    rows = system_of(system, Mesh.parse(mesh)).formats.of(model).rows
    assert all(len(row.source) > 10 for row in rows)
    return {row.tensor: (row.decode, row.prefill) for row in rows}


@pytest.mark.parametrize(
    ("system", "mesh", "model", "expected", "changes"),
    [
        ("tt_transformers", "1x1", NARROW, ROW_OF_CHIPS, {}),
        ("tt_transformers", "1x8", WIDE, ROW_OF_CHIPS, {}),
        ("tt_transformers", "4x1", NARROW, ROW_OF_CHIPS, {}),
        ("tt_transformers", "8x4", WIDE, OF_32_CHIPS, {}),
        ("tt_transformers", "8x4", NARROW, OF_32_CHIPS, {"gate_up_sum": (BF16, BFP8)}),
        ("tt_transformers", "2x2", NARROW, OF_32_CHIPS, {"gate_up_sum": (BF16, BFP8)}),
        ("galaxy", "8x4", WIDE, GALAXY, {}),
        ("galaxy", "1x2", NARROW, GALAXY, {}),
        (
            "galaxy",
            "8x4",
            QWEN3,
            GALAXY,
            {"w2_product": (BFP8, BF16), "w2_sum": (BFP8, BF16)},
        ),
    ],
)
def test_every_cell_is_that_of_the_original(system, mesh, model, expected, changes):
    assert table_of(system, mesh, model) == cells(expected) | changes


GROUPS = ("ff1_3", "ff2", "wqkv", "wo", "kv_cache")


@pytest.mark.parametrize(
    ("system", "name", "sizes", "formats", "fidelities"),
    [
        # Formats of w1 and w3, w2, wqkv, wo and the cache; fidelities of w1, attention of a step.
        ("galaxy", "performance", NARROW, "48888", "LOFI HIFI2"),
        ("galaxy", "accuracy", NARROW, "88888", "HIFI2 HIFI2"),
        ("galaxy", "accuracy", WIDE, "48888", "LOFI HIFI2"),
        ("galaxy", "accuracy", QWEN3, "88888", "HIFI2 HIFI2"),
        ("tt_transformers", "performance", NARROW, "48888", "LOFI HIFI2"),
        ("tt_transformers", "performance", QWEN3, "48888", "LOFI HIFI2"),
        ("tt_transformers", "accuracy", NARROW, "88888", "HIFI2 HIFI2"),
        ("tt_transformers", "accuracy", PRESETS["llama3.2-1b"], "88888", "HIFI2 HIFI2"),
        ("tt_transformers", "accuracy", PRESETS["mistral-7b"], "88888", "HIFI2 HIFI2"),
        ("tt_transformers", "accuracy", WIDE, "48888", "LOFI HIFI2"),
        ("tt_transformers", "accuracy", QWEN3, "88bbb", "HIFI2 HIFI4"),
        ("tt_transformers", "accuracy", PRESETS["smollm2-135m"], "88bbb", "HIFI2 HIFI4"),
        # Qwen2.5-7B has no bfp4 in either, and attention in bf16 in both; 72B is large.
        *(
            (
                "tt_transformers",
                name,
                replace(NARROW, dim=3584, hidden_dim=18_944, qkv_bias=True),
                "88bbb",
                "HIFI2 HIFI4",
            )
            for name in ("performance", "accuracy")
        ),
        ("tt_transformers", "accuracy", replace(WIDE, qkv_bias=True), "48888", "LOFI HIFI2"),
    ],
)
def test_names_mean_what_they_do_for_family_and_size(system, name, sizes, formats, fidelities):
    precision = Wanted(name).on(system_of(system, Mesh(8, 4)), sizes)
    weights = (Weight.W1, Weight.W2, Weight.WQKV, Weight.WO)
    found = [*map(precision.weight, weights), precision.kv_cache]
    assert found == [{"4": BFP4, "8": BFP8, "b": BF16}[c] for c in formats]
    of_w1, of_attention = (Fidelity[word] for word in fidelities.split())
    assert precision.fidelity(Weight.W1) is of_w1
    assert precision.attention_fidelity("decode") is of_attention
    for weight in (Weight.WQKV, Weight.WO):
        assert precision.fidelity(weight, "decode") is of_attention
    assert precision.fidelity(Weight.W2) is Fidelity.HIFI2
    assert precision.attention_fidelity("prefill") is Fidelity.HIFI4
    assert precision.weight(Weight.LM_HEAD) is BFP8


def test_what_a_layer_hands_on_has_the_formats_of_both(tmp_path):
    """Layer 1 casts what layer 0 made in bf16; layer 2 gets what layer 1 added in bfp8."""
    path = tmp_path / "layers.json"
    path.write_text('{"decoders": {"1": {"precision_cfg": {"ACTIVATION": "BFP8"}}}}')
    model = replace(NARROW, n_layers=3)
    precision = Wanted(optimizations=path).on(system_of("tt_transformers", Mesh(1, 2)), model)
    first, second, third = (precision.of(layer) for layer in range(3))
    assert (first.prefill.mlp_sum, first.next_input) == (BF16, BFP8)
    assert (second.before.mlp_sum, second.decode.layer_input) == (BF16, BFP8)
    assert (third.before.mlp_sum, third.decode.layer_input) == (BFP8, BF16)
    assert precision.decode.last_sum is third.decode.mlp_sum is BF16
    # Set, the group is said of what is bfp8 without it, too.
    assert first.prefill.queries is first.decode.act is BFP8
    assert second.decode.qkv_product is second.prefill.wo_sum is BFP8
    assert second.decode.wo_sum is BF16


def test_float32_rounds_nothing_on_any_system():
    for system, mesh in (("galaxy", "8x4"), ("tt_transformers", "1x2"), ("tt_transformers", "8x4")):
        precision = Wanted("float32").on(system_of(system, Mesh.parse(mesh)), NARROW)
        names = {getattr(precision.formats(m), t).name for m in MODES for t in TENSORS}
        assert names == {"float32"}
        assert not precision.cuts_inputs


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("wo=bf16", "no tensor 'wo'; choose layer_input, attention_sum"),
        ("train.act=bf16", "no mode 'train'; choose decode, prefill"),
        ("act=float32", "act is 'float32'; choose bfp4, bfp8, bf16"),
        ("act", "'act' is unknown; give TENSOR=FORMAT with one of layer_input"),
    ],
)
def test_other_formats_that_cannot_be_are_refused_with_the_list(text, says):
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert says in str(caught.value)


def test_a_mesh_has_the_table_that_is_asked_for():
    mesh, row = (system_of("tt_transformers", Mesh.parse(m)) for m in ("2x2", "1x2"))
    asked = Wanted("accuracy", changes="row,decode.act=bf16").on(mesh, NARROW)
    own = Wanted("accuracy").on(row, NARROW)
    assert asked.prefill == own.prefill != Wanted("accuracy").on(mesh, NARROW).prefill
    assert asked.decode == replace(own.decode, act=BF16)
    with pytest.raises(ConfigError, match=r"'ring' is unknown; give a table \(row, mesh\) or"):
        Wanted(changes="ring").on(mesh, NARROW)


# --- runs obey: a cell that is changed changes bytes on the wire, or bits of values

TENSOR_OF_BUFFER = {
    "QKV": "qkv_sum",
    "CREATE_HEADS": "qkv_sum",
    "CONCAT_HEADS": "attention",
    "SDPA": "attention",
    "SDPA_REVERSE": "attention",
    "WO": "wo_sum",
    "FF1": "gate_up_sum",
    "FF3": "gate_up_sum",
    "GATE_UP": "gate_up_sum",
    "BINARY_MUL": "act",
    "FF2": "w2_sum",
    "LM_HEAD": "logits",
    "SAMPLING_VALUES": "candidates",
}
STREAM_OF_NORM = {
    "rms_norm_attention": "layer_input",
    "rms_norm_mlp": "attention_sum",
    "attention_norm": "layer_input",
    "ffn_norm": "attention_sum",
}
TILE_BYTES = {BF16: 2048, BFP8: 1088, BFP4: 576}


@pytest.mark.parametrize("model", [NARROW, QWEN3, WIDE], ids=["narrow", "qwen3", "wide"])
@pytest.mark.parametrize(
    ("system", "mesh"),
    [("galaxy", "8x4"), ("tt_transformers", "8x4"), ("tt_transformers", "1x8")],
)
def test_every_message_has_the_bytes_of_its_cell(system, mesh, model):
    emulated = system_of(system, Mesh.parse(mesh))
    model = replace(model, n_layers=1)
    precision = Wanted("accuracy").on(emulated, model)
    programs = Programs(model, Mesh.parse(mesh), emulated, precision, users=32)
    table, n_checked = table_of(system, mesh, model), 0
    passes = [("decode", programs.decode())]
    passes += [("prefill", programs.prefill(PassShape.of_prompt(n))) for n in (100, 2000)]
    for mode, program in passes:
        for use, wire in program.wires():
            if wire.key == "SAMPLING_INDICES":
                continue
            tensor = TENSOR_OF_BUFFER.get(wire.key, "statistics")
            if wire.key == "LAYERNORM" and emulated.is_scattered:
                behind = "last_sum" if mode == "decode" else "mlp_sum"
                tensor = STREAM_OF_NORM.get(use.op.name, behind)
            cell = table[tensor][MODES.index(mode)]
            dtype = cell.otherwise if isinstance(cell, Act) else cell
            n_values = int(np.prod(wire.shape))
            assert wire.n_bytes == n_values * TILE_BYTES[dtype] / 1024, (mode, str(wire))
            n_checked += 1
    assert n_checked > 15


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory):
    pytest.importorskip("torch")  # makes the weights
    return write_family("qwen3", tmp_path_factory.mktemp("qwen3"))


PLACES = [("galaxy", "2x2"), ("tt_transformers", "2x2"), ("tt_transformers", "1x2")]


@pytest.mark.parametrize(("system", "mesh"), PLACES)
def test_a_cell_that_is_changed_changes_values(system, mesh, qwen3):
    tokens = [int(t) for t in np.random.default_rng(3).integers(0, 290, 36)]

    def answers(changes=None):
        run = RunConfig(
            model=str(qwen3),
            mesh=Mesh.parse(mesh),
            system=system,
            formats=changes,
            prompt_tokens=((0,),),
            cache_blocks=4,
        )
        plan, _ = make_plan(run)
        transport = LocalTransport(run.working_mesh)
        found = forced_answers(run, plan, transport, tokens, n_prefilled=33)
        # One position behind the pass, two behind steps.
        return {"prefill": found.logits_TV[:1], "decode": found.logits_TV[1:]}

    before = answers()
    for row in system_of(system, Mesh.parse(mesh)).formats.rows:
        for mode in MODES:
            if getattr(row, mode) is None or row.tensor == "candidates":
                continue  # candidates: a message of greedy runs, see above
            after = answers(f"{mode}.{row.tensor}=bfp4")
            where = f"{mode}.{row.tensor}"
            assert not np.array_equal(before[mode], after[mode]), where
            if mode == "decode":  # and nothing of the other mode
                assert np.array_equal(before["prefill"], after["prefill"]), where
