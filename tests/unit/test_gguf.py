"""GGUF files: what is read from them, and every way in which they are broken."""

import random

import gguf
import numpy as np
import pytest

from galaxy_mpi.checkpoints.chat_template import ChatTemplate
from galaxy_mpi.checkpoints.gguf_file import GgufFile
from galaxy_mpi.checkpoints.stored import FileMaps, Stored
from galaxy_mpi.checkpoints.tokenizer import TextTokenizer
from galaxy_mpi.errors import CheckpointError

SIZES = {
    "vocab": 96,
    "dim": 64,
    "hidden": 96,
    "heads": 4,
    "kv_heads": 2,
    "head_dim": 16,
}
BYTES = [chr(0x100 + n) for n in range(90)]
SPECIAL = ["<|start|>", "<|end|>", "<tool>"]
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


def write_file(path, architecture="llama", kind="F32", pre="smollm", extra=None, fields=None):
    """Write a random model of one layer; return its tensors as they are in Meta's order."""
    rng, s = np.random.default_rng(0), SIZES
    q, kv = s["heads"] * s["head_dim"], s["kv_heads"] * s["head_dim"]
    shapes = {
        "token_embd.weight": (s["vocab"], s["dim"]),
        "output_norm.weight": (s["dim"],),
        "output.weight": (s["vocab"], s["dim"]),
        "blk.0.attn_q.weight": (q, s["dim"]),
        "blk.0.attn_k.weight": (kv, s["dim"]),
        "blk.0.attn_v.weight": (kv, s["dim"]),
        "blk.0.attn_output.weight": (s["dim"], q),
        "blk.0.ffn_gate.weight": (s["hidden"], s["dim"]),
        "blk.0.ffn_up.weight": (s["hidden"], s["dim"]),
        "blk.0.ffn_down.weight": (s["dim"], s["hidden"]),
        "blk.0.attn_norm.weight": (s["dim"],),
        "blk.0.ffn_norm.weight": (s["dim"],),
    }
    if architecture == "qwen2":
        shapes |= {f"blk.0.attn_{n}.bias": (w,) for n, w in (("q", q), ("k", kv), ("v", kv))}
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(128)
    writer.add_embedding_length(s["dim"])
    writer.add_block_count(1)
    writer.add_feed_forward_length(s["hidden"])
    writer.add_head_count(s["heads"])
    writer.add_head_count_kv(s["kv_heads"])
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(5000.0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    tokens = [*BYTES, *SPECIAL, "ab", "1", "2"]
    tokens[1:3] = "a", "b"
    writer.add_token_list(tokens)
    normal, control, user = 1, 3, 4
    writer.add_token_types([normal] * 90 + [control, control, user] + [normal] * 3)
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(90)
    writer.add_eos_token_id(91)
    writer.add_chat_template(TEMPLATE)
    tensors = {}
    for name, shape in shapes.items():
        tensors[name] = values = rng.standard_normal(shape).astype(np.float32)
        if len(shape) == 2 and kind != "F32":
            kind_id = gguf.GGMLQuantizationType[kind]
            raw = gguf.quants.quantize(values, kind_id)
            tensors[name] = gguf.quants.dequantize(raw, kind_id)
            writer.add_tensor(name, raw, raw_dtype=kind_id)
        else:
            writer.add_tensor(name, values)
    for name, value in (fields or {}).items():
        add = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
        add[type(value)](name, value)
    for name, values in (extra or {}).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tensors


def test_sizes_tensors_and_the_order_of_rows(tmp_path):
    for architecture in ("llama", "qwen2"):
        path = tmp_path / f"{architecture}.gguf"
        tensors = write_file(path, architecture)
        file = GgufFile(path)
        config = file.config
        assert (config.dim, config.hidden_dim, config.vocab_size) == (64, 96, 96)
        assert (config.n_heads, config.n_kv_heads, config.head_dim) == (4, 2, 16)
        assert (config.rope_theta, config.max_seq_len) == (5000.0, 128)
        assert config.eos_tokens == (91,)
        assert config.qkv_bias == (architecture == "qwen2")
        checkpoint = file.checkpoint(config)
        part = checkpoint.read("w2", 0, slice(3, 9), slice(10, 70))
        np.testing.assert_array_equal(part, tensors["blk.0.ffn_down.weight"][3:9, 10:70])
        stored = tensors["blk.0.attn_q.weight"]
        found = checkpoint.read("wq", 0, slice(16, 48), slice(None))
        # Meta's order has the two values of a rotary pair side by side.
        order = [*range(0, 16, 2), *range(1, 16, 2)] if architecture == "llama" else range(16)
        for head in (1, 2):
            right = stored[head * 16 : head * 16 + 16][list(order)]
            np.testing.assert_array_equal(found[(head - 1) * 16 : head * 16], right)


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_any_part_of_a_quantised_matrix_is_that_part_of_the_whole(tmp_path, kind):
    path = tmp_path / "model.gguf"
    tensors = write_file(path, kind=kind)
    checkpoint = GgufFile(path).checkpoint(GgufFile(path).config)
    whole = tensors["blk.0.ffn_down.weight"]
    for cols in (slice(None), slice(31, 33), slice(64, 96), slice(5, 90)):
        np.testing.assert_array_equal(
            checkpoint.read("w2", 0, slice(5, 60), cols), whole[5:60, cols]
        )
    rows = np.array([9, 2, 9])
    np.testing.assert_array_equal(
        checkpoint.row_reader("embedding", slice(7, 50))(rows),
        tensors["token_embd.weight"][rows, 7:50],
    )


def test_scaled_rotary_frequencies_are_a_tensor(tmp_path):
    path = tmp_path / "model.gguf"
    factors = np.array([1, 1, 1, 1, 2, 2, 4, 8], np.float32)
    write_file(path, extra={"rope_freqs.weight": factors})
    config = GgufFile(path).config
    write_file(path)
    np.testing.assert_allclose(config.inv_freq(), GgufFile(path).config.inv_freq() / factors)


def test_the_tokenizer_splits_digits_and_knows_special_tokens(tmp_path):
    path = tmp_path / "model.gguf"
    write_file(path)
    file = GgufFile(path)
    tokenizer = TextTokenizer.of_gguf(file)
    assert tokenizer.encode("12", 1) == [94, 95]
    assert tokenizer.encode("<|end|>ab", 1) == [91, 93]
    assert tokenizer.decode([94, 91, 93]) == "1ab"
    chat = ChatTemplate.of_gguf(file)
    assert chat.apply("ab") == "<|start|>[user] ab\n[assistant]"


def test_a_tokenizer_of_another_kind_is_refused(tmp_path):
    path = tmp_path / "model.gguf"
    write_file(path, pre="tekken")
    with pytest.raises(CheckpointError, match=r"'tekken'; known: 'gpt2' with smollm"):
        TextTokenizer.of_gguf(GgufFile(path))


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ raise_exception('no system role') }}",
        "{% for %}",
        "{{ messages[7].content }}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
    ],
)
def test_templates_cannot_leave_their_sandbox(source):
    with pytest.raises(CheckpointError, match="chat template cannot be rendered"):
        ChatTemplate(source, {}).apply("x")


def test_an_architecture_that_is_not_known_lists_those_that_are(tmp_path):
    path = tmp_path / "model.gguf"
    write_file(path, "gemma")
    with pytest.raises(CheckpointError, match="'gemma' is not known; known: llama, qwen2, qwen3"):
        GgufFile(path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("expert_count", 8),
        ("rope.dimension_count", 8),
        ("attention.value_length", 32),
        ("logit_scale", 0.5),
        ("rope.scaling.type", "yarn"),
        ("attn_logit_softcapping", 50.0),
    ],
)
def test_maths_that_is_not_done_is_refused_by_name(tmp_path, name, value):
    path = tmp_path / "model.gguf"
    write_file(path, fields={f"llama.{name}": value})
    with pytest.raises(CheckpointError, match=rf"llama\.{name} is {value!r}"):
        GgufFile(path)


def test_a_window_bounds_the_positions(tmp_path):
    path = tmp_path / "model.gguf"
    write_file(path, fields={"llama.attention.sliding_window": 100})
    assert GgufFile(path).config.max_seq_len == 100


@pytest.mark.parametrize("keep", [0, 3, 24, 300, 2000, -1, -5000])
def test_a_file_cut_short(tmp_path, keep):
    path = tmp_path / "model.gguf"
    write_file(path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match="model.gguf"):
        GgufFile(path)


def test_tensors_over_one_another_or_past_the_end_are_refused(tmp_path):
    path = tmp_path / "model.gguf"
    write_file(path)
    content = bytearray(path.read_bytes())
    at = content.index(b"blk.0.ffn_up.weight") + len("blk.0.ffn_up.weight") + 4 + 16 + 4
    for offset in (0, 2**40):
        content[at : at + 8] = offset.to_bytes(8, "little")
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"model.gguf"):
            GgufFile(path)


def test_hostile_headers_end_in_a_line_and_never_read_outside_the_file(tmp_path):
    """2,000 mutations: either the file is refused, or all that is read lies inside of it."""
    path = tmp_path / "model.gguf"
    write_file(path)
    good = path.read_bytes()
    n_header = good.index(b"blk.0.ffn_norm.weight") + 60
    chance = random.Random(5)
    n_refused = 0
    for _ in range(2_000):
        content = bytearray(good)
        for _ in range(chance.choice((1, 1, 2, 8))):
            content[chance.randrange(n_header)] = chance.choice((0, 1, 0x7F, 0xFF))
        path.write_bytes(content)
        try:
            file = GgufFile(path)
            checkpoint = file.checkpoint(file.config)
            for stored in checkpoint.tensors.values():
                assert 0 <= stored.offset <= stored.offset + stored.n_bytes <= len(content)
            checkpoint.read("w1", 0, slice(0, 8), slice(0, 8))
        except CheckpointError:
            n_refused += 1
    assert n_refused > 200


def test_a_file_that_is_gone_when_it_is_read(tmp_path):
    stored = Stored(tmp_path / "gone", "x", "F32", (2, 2), 0, 16)
    with pytest.raises(CheckpointError, match="all ranks need the model's files"):
        FileMaps().reader(stored, slice(None))(slice(None))
