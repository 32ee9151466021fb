"""Configurations of models: what is taken, what is refused, and in which words."""

import json

import pytest

from galaxy_mpi.checkpoints.hugging_face_config import notes_on_config, read_config
from tests.unit.test_checkpoint import LLAMA3, SMALL, refuse, write_model

NO_NUMBERS = (-1.0, 0, 1e-60, float("nan"), float("inf"))


def test_a_folder_without_config(tmp_path):
    refuse(tmp_path, "no config.json in")


@pytest.mark.parametrize("text", ["{", "", "[1]", "\x00\x01", '"text"'])
def test_a_broken_config(tmp_path, text):
    write_model(tmp_path)
    (tmp_path / "config.json").write_text(text)
    refuse(tmp_path, "config.json")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, "GPT2LMHeadModel.*known: LlamaForCausalLM"),
        ({"architectures": None}, "known: LlamaForCausalLM"),
        ({"hidden_size": None}, "lacks the field 'hidden_size'"),
        ({"hidden_size": "big"}, "hidden_size must be a whole number from 1 .*, got 'big'"),
        ({"hidden_size": 1e400}, "hidden_size must be a whole number"),
        ({"num_attention_heads": 0}, "num_attention_heads must be a whole number"),
        ({"num_attention_heads": 5}, "must divide n_heads"),
        ({"num_hidden_layers": -1}, "num_hidden_layers must be .* 1 to 1000, got -1"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers must be .* 1 to 1000"),
        ({"rms_norm_eps": "x"}, "rms_norm_eps must be a number above 0, .* got 'x'"),
        *(({"rms_norm_eps": x}, "norm_eps must be a number above 0") for x in NO_NUMBERS),
        *(({"rope_theta": x}, "rope_theta must be a number above 0") for x in NO_NUMBERS),
        ({"rope_parameters": {"rope_theta": -1.0}}, "rope_theta must be a number above 0"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "rope type 'yarn' is not known"),
        ({"rope_scaling": []}, "rope_scaling must be an object"),
        ({"rope_scaling": LLAMA3 | {"factor": 0}}, "factor must be a number above 0"),
        ({"rope_scaling": LLAMA3 | {"low_freq_factor": 4.0}}, "must be above low_freq_factor"),
        ({"rope_parameters": {"full_attention": {}}}, "differs by kind of layer"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor is 0.5"),
        ({"eos_token_id": "x"}, "eos_token_id must be a whole number"),
        ({"eos_token_id": [1e999]}, "eos_token_id must be a whole number"),
        ({"layer_types": ["linear_attention"]}, "layer_types must be a list of full_attention"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings must be true or false"),
    ],
)
def test_a_config_that_cannot_be(tmp_path, change, said):
    write_model(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(SMALL | change))
    refuse(tmp_path, said)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hidden_act", "gelu"),
        ("attention_bias", True),
        ("mlp_bias", True),
        ("attn_logit_softcapping", 50.0),
        ("final_logit_softcapping", 30.0),
        ("partial_rotary_factor", 0.5),
        ("logits_scaling", 8),
        ("embedding_multiplier", 12.0),
        ("num_local_experts", 8),
        ("attention_chunk_size", 8192),
        ("quantization_config", {"quant_method": "fp8"}),
    ],
)
def test_maths_that_is_not_done_is_refused_by_name(tmp_path, name, value):
    write_model(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(SMALL | {name: value}))
    refuse(tmp_path, f"{name} is .*, which changes the maths and is not supported")


def test_what_other_libraries_write_is_no_reason_to_refuse(tmp_path):
    """Every key of the configurations of transformers is known, at its default."""
    transformers = pytest.importorskip("transformers")
    for name in ("Llama", "Mistral", "Qwen2", "Qwen3"):
        config = getattr(transformers, f"{name}Config")(architectures=[f"{name}ForCausalLM"])
        config.save_pretrained(tmp_path)
        (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
        assert read_config(tmp_path).dim == config.hidden_size
        assert notes_on_config(tmp_path) == []


def test_keys_that_nobody_knows_are_listed(tmp_path):
    rope = {"rope_theta": 5000.0, "warp": 9}
    fields = SMALL | {"attention_wobble": 0.3, "hidden_act": "silu", "rope_parameters": rope}
    write_model(tmp_path, fields)
    (note,) = notes_on_config(tmp_path)
    assert note.endswith("unknown and ignored: attention_wobble, rope_parameters.warp")


def test_a_config_that_lacks_a_field(tmp_path):
    write_model(tmp_path)
    fields = {k: v for k, v in SMALL.items() if k != "vocab_size"}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    refuse(tmp_path, "lacks the field 'vocab_size'")
