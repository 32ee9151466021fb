"""Model folders that are good, and every way in which they are not."""

import json
import random
import shutil

import numpy as np
import pytest
from safetensors.numpy import save_file

from galaxy_mpi.checkpoints import locate
from galaxy_mpi.checkpoints.chat_template import ChatTemplate
from galaxy_mpi.checkpoints.hugging_face import open_folder
from galaxy_mpi.checkpoints.hugging_face_config import read_config
from galaxy_mpi.checkpoints.tokenizer import TextTokenizer
from galaxy_mpi.config import RunConfig
from galaxy_mpi.engine.planning import make_plan
from galaxy_mpi.errors import CheckpointError, CollectiveError, ConfigError
from galaxy_mpi.kernels import SamplingParams
from galaxy_mpi.mesh import Mesh
from galaxy_mpi.models import Layout, Sharding, load_chip_weights
from galaxy_mpi.systems import PRECISIONS
from galaxy_mpi.weights import Weight, WeightId

SMALL = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 96,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10_000.0,
    "max_position_embeddings": 64,
    "eos_token_id": [1, 2],
}


LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def write_model(folder, fields=SMALL, n_files=1, dtype=np.float32):
    """Write a random Llama in Hugging Face's layout; return its tensors."""
    rng = np.random.default_rng(0)
    dim, hidden, vocab = fields["hidden_size"], fields["intermediate_size"], fields["vocab_size"]
    kv = dim // fields["num_attention_heads"] * fields["num_key_value_heads"]
    shapes = {
        "model.embed_tokens.weight": (vocab, dim),
        "model.norm.weight": (dim,),
        "lm_head.weight": (vocab, dim),
    }
    for layer in range(fields["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        shapes |= {
            prefix + "self_attn.q_proj.weight": (dim, dim),
            prefix + "self_attn.k_proj.weight": (kv, dim),
            prefix + "self_attn.v_proj.weight": (kv, dim),
            prefix + "self_attn.o_proj.weight": (dim, dim),
            prefix + "mlp.gate_proj.weight": (hidden, dim),
            prefix + "mlp.up_proj.weight": (hidden, dim),
            prefix + "mlp.down_proj.weight": (dim, hidden),
            prefix + "input_layernorm.weight": (dim,),
            prefix + "post_attention_layernorm.weight": (dim,),
        }
    tensors = {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(fields))
    names = sorted(tensors)
    for number in range(n_files):
        part = {name: tensors[name] for name in names[number::n_files]}
        save_file(part, folder / f"model-{number + 1:05}-of-{n_files:05}.safetensors")
    return tensors


def test_sizes_are_read_from_config(tmp_path):
    write_model(tmp_path)
    config = read_config(tmp_path)
    assert (config.dim, config.head_dim, config.n_kv_heads) == (64, 16, 2)
    assert (config.rope_theta, config.max_seq_len) == (10_000.0, 64)
    assert config.eos_tokens == (1, 2)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": 7}')
    assert read_config(tmp_path).eos_tokens == (7,)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_shards_put_together_are_the_checkpoint(tmp_path, dtype):
    tensors = write_model(tmp_path, n_files=3, dtype=dtype)
    config, mesh = read_config(tmp_path), Mesh(2, 2)
    reader = open_folder(tmp_path, config)
    chips = [
        load_chip_weights(reader, Sharding(Layout(config, mesh), rank), PRECISIONS["float32"])
        for rank in range(4)
    ]

    def whole(weight, rows_dim):
        part = [chips[rank].tensors[WeightId(1, weight)].unpack() for rank in range(4)]
        across = [np.concatenate(part[r * 2 : r * 2 + 2], axis=1 - rows_dim) for r in range(2)]
        return np.concatenate(across, axis=rows_dim)

    layer = "model.layers.1."
    np.testing.assert_array_equal(whole(Weight.WO, 0), tensors[layer + "self_attn.o_proj.weight"].T)
    np.testing.assert_array_equal(whole(Weight.W1, 1), tensors[layer + "mlp.gate_proj.weight"].T)
    np.testing.assert_array_equal(whole(Weight.W3, 1), tensors[layer + "mlp.up_proj.weight"].T)
    np.testing.assert_array_equal(whole(Weight.W2, 0), tensors[layer + "mlp.down_proj.weight"].T)
    # Row r of wqkv: its query heads, its key head, its value head.
    wqkv = whole(Weight.WQKV, 1)
    for row in range(2):
        mine = wqkv[:, row * 64 : row * 64 + 64]
        for name, part in (("q", mine[:, :32]), ("k", mine[:, 32:48]), ("v", mine[:, 48:])):
            stored = tensors[layer + f"self_attn.{name}_proj.weight"].T
            width = part.shape[1]
            np.testing.assert_array_equal(part, stored[:, row * width : (row + 1) * width])
    head = np.concatenate(
        [
            np.concatenate(
                [
                    np.concatenate([chips[r * 2 + c].tensors[w].unpack() for w in chips[0].head], 1)
                    for c in range(2)
                ]
            )
            for r in range(2)
        ],
        axis=1,
    )
    np.testing.assert_array_equal(head, tensors["lm_head.weight"].T)
    tokens = np.array([5, 95, 0])
    embedded = np.concatenate([chips[0].embed(tokens), chips[1].embed(tokens)], axis=1)
    np.testing.assert_array_equal(embedded, tensors["model.embed_tokens.weight"][tokens])
    with pytest.raises(CollectiveError, match="token 32896 is not in the vocabulary"):
        chips[0].embed(np.array([5, 32896]))


def test_the_demo_model_fits_the_galaxy_without_padding():
    config = read_config(locate("demo"))
    assert Layout(config, Mesh(8, 4)).padding == []
    assert config.n_kv_heads == 8
    assert config.dim % 128 == 0
    assert config.hidden_dim % 1024 == 0
    figures = json.loads((locate("demo") / "training.json").read_text())
    assert figures["held_out_bits_per_byte"] < 2.2
    assert (locate("demo") / "model.safetensors").stat().st_size <= 12_000_000


def refuse(folder, match):
    with pytest.raises(CheckpointError, match=match):
        open_folder(folder, read_config(folder))


def test_a_folder_that_is_missing_lists_what_there_is():
    with pytest.raises(CheckpointError, match="no model folder at '/no/such'.*demo"):
        locate("/no/such")


@pytest.mark.parametrize("keep", [0, 4, 8, 100, 5000, -1])
def test_a_file_cut_short(tmp_path, keep):
    write_model(tmp_path)
    (path,) = tmp_path.glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:keep])
    refuse(tmp_path, "damaged or cut short")


def test_a_folder_without_weights(tmp_path):
    write_model(tmp_path)
    next(tmp_path.glob("*.safetensors")).unlink()
    refuse(tmp_path, "no \\*.safetensors file")


def test_a_tensor_that_is_missing_of_another_shape_or_there_twice(tmp_path):
    tensors = write_model(tmp_path)
    path = next(tmp_path.glob("*.safetensors"))
    name = "model.layers.1.mlp.down_proj.weight"
    save_file({k: v for k, v in tensors.items() if k != name}, path)
    refuse(tmp_path, f"tensor {name} is in no file of")
    save_file(tensors | {name: np.ascontiguousarray(tensors[name].T)}, path)
    refuse(tmp_path, rf"{name} .* has shape \[128, 64\], its config asks for \[64, 128\]")
    save_file(tensors | {name: tensors[name].astype(np.int32)}, path)
    refuse(tmp_path, f"{name} .* is I32; known: F32, F16, BF16")
    save_file(tensors, path)
    shutil.copy(path, tmp_path / "again.safetensors")
    refuse(tmp_path, "is in .* and in ")


def test_a_folder_without_tokenizer_or_with_a_broken_one(tmp_path):
    with pytest.raises(CheckpointError, match="needs tokenizer.json"):
        TextTokenizer.of_folder(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match="is not a tokenizer"):
        TextTokenizer.of_folder(tmp_path)


def test_text_goes_to_tokens_and_back():
    tokenizer = TextTokenizer.of_folder(locate("demo"))
    text = 'Emma said, "Naïve — 42?"\n'
    ids = tokenizer.encode(text, 1)
    assert ids[0] == 0  # begin of text
    assert tokenizer.decode(ids) == text
    with pytest.raises(ConfigError, match="the prompt of user 3 is empty"):
        tokenizer.encode("", 3)


def test_hostile_headers_end_in_a_line_and_never_read_outside_the_file(tmp_path):
    """2,000 mutations: either the file is refused, or all that is read lies inside of it."""
    write_model(tmp_path)
    config = read_config(tmp_path)
    (path,) = tmp_path.glob("*.safetensors")
    good = path.read_bytes()
    n_header = 8 + int.from_bytes(good[:8], "little")
    chance = random.Random(3)
    n_refused = 0
    for _ in range(2_000):
        content = bytearray(good)
        for _ in range(chance.choice((1, 1, 2, 8))):
            content[chance.randrange(n_header)] = chance.choice(b'0189{}[]",:FIab\x00\xff')
        path.write_bytes(content)
        try:
            checkpoint = open_folder(tmp_path, config)
            for stored in checkpoint.tensors.values():
                assert n_header <= stored.offset <= stored.offset + stored.n_bytes <= len(content)
            checkpoint.read("w1", 1, slice(0, 8), slice(0, 8))
        except CheckpointError:
            n_refused += 1
    assert n_refused > 200


def test_the_chat_template_of_a_folder(tmp_path):
    assert ChatTemplate.of_folder(tmp_path) is None
    source = "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}"
    fields = {"chat_template": source, "bos_token": "<s>", "eos_token": {"content": "</s>"}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(fields))
    assert ChatTemplate.of_folder(tmp_path).apply("Hi") == "<s>Hi</s>"


def test_advice_of_the_models_makers_is_taken_in_chats_only(tmp_path):
    write_model(tmp_path)
    shutil.copy(locate("demo") / "tokenizer.json", tmp_path)
    advice = {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "top_k": 50}
    (tmp_path / "generation_config.json").write_text(json.dumps(advice | {"eos_token_id": 5}))
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "x"}')
    prompts = {"model": str(tmp_path), "prompt_tokens": ((1, 2),), "mesh": Mesh(1, 1)}
    plain, _ = make_plan(RunConfig(**prompts))
    chat, _ = make_plan(RunConfig(**prompts, chat=True, seed=4))
    asked, _ = make_plan(RunConfig(**prompts, chat=True, sampling=SamplingParams(0.1)))
    assert plain.sampling == SamplingParams()
    assert chat.sampling == SamplingParams(0.6, 32, 0.9, 4)
    assert asked.sampling == SamplingParams(0.1)
    assert chat.model.eos_tokens == (5,)
    (tmp_path / "tokenizer_config.json").unlink()
    with pytest.raises(ConfigError, match="has no chat template; leave out --chat"):
        make_plan(RunConfig(**prompts, chat=True))
