"""Files of a model, damaged, and what reads them then."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np

from galaxy_mpi.checkpoints.chat_template import ChatTemplate
from galaxy_mpi.checkpoints.gguf_file import GgufFile
from galaxy_mpi.checkpoints.hugging_face import open_folder
from galaxy_mpi.checkpoints.hugging_face_config import read_config
from galaxy_mpi.checkpoints.meta import open_meta
from galaxy_mpi.checkpoints.tokenizer import TextTokenizer
from galaxy_mpi.config import RunConfig
from galaxy_mpi.engine.planning import make_plan
from galaxy_mpi.errors import CheckpointError
from galaxy_mpi.mesh import Mesh
from galaxy_mpi.models import Layout, Sharding
from galaxy_mpi.models.load import load_chip_weights, shard_parts
from galaxy_mpi.models.shard_cache import ShardFile
from galaxy_mpi.studies.what_if import WhatIf
from galaxy_mpi.systems import PRECISIONS
from tests.fuzz.format import Format
from tests.fuzz.mutate import damaged_bytes, damaged_json
from tests.unit.test_checkpoint import SMALL, write_model


def model_folder(folder: Path) -> Path:
    """Write a folder that has everything."""
    write_model(folder)
    (folder / "tokenizer.json").write_bytes(_tokenizer())
    (folder / "generation_config.json").write_text(
        json.dumps({"do_sample": True, "temperature": 0.6, "top_k": 5, "top_p": 0.9})
    )
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"chat_template": "{{ bos_token }}", "bos_token": {"content": "<s>"}})
    )
    return folder


def _tokenizer() -> bytes:
    """Return a tokenizer with one of many parts."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    words = {chr(0x100 + n): n for n in range(90)} | {"he": 90, "<s>": 91}
    vocabulary = {**words, "h": 92, "e": 93}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[("h", "e")]))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Replace("a", "b")])
    split = pre_tokenizers.Split(" ", "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel()])
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", None, [("<s>", 91)])
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    tokenizer.add_special_tokens(["<s>"])
    tokenizer.enable_truncation(50)
    tokenizer.enable_padding()
    text: str = tokenizer.to_str()
    return text.encode()


def _of_folder(folder: Path, name: str) -> Callable[[bytes], None]:
    """Return what plays a file of a model folder, all the way to a plan."""
    model_folder(folder)
    run = RunConfig(
        model=str(folder), prompt_tokens=((1, 2),), chat=True, weights_cache=None, mesh=Mesh(1, 1)
    )

    def play(content: bytes) -> None:
        (folder / name).write_bytes(content)
        plan, _ = make_plan(run)
        if not np.isfinite(plan.model.inv_freq()).all():
            raise AssertionError("a rotary frequency is infinite")
        Layout(plan.model, Mesh(8, 4)).padding  # noqa: B018

    return play


def config_format(folder: Path) -> Format:
    rest = {"hidden_act": "silu", "sliding_window": 40, "rope_scaling": None, "mlp_bias": False}
    llama3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0}
    llama3 |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 64}
    good = json.dumps(SMALL | rest | {"rope_parameters": llama3}).encode()
    play, n_played = _of_folder(folder, "config.json"), 0

    def and_estimate(content: bytes) -> None:
        nonlocal n_played
        play(content)
        n_played += 1
        if n_played % 50 == 1:
            _ = WhatIf(model=str(folder), layers=1, new_tokens=1).report

    return Format(good, damaged_json, and_estimate)


def generation_format(folder: Path) -> Format:
    good = {"do_sample": True, "temperature": 0.6, "top_k": 5, "top_p": 0.9, "eos_token_id": [1]}
    play = _of_folder(folder, "generation_config.json")
    return Format(json.dumps(good).encode(), damaged_json, play)


def tokenizer_config_format(folder: Path) -> Format:
    tokens = {"bos_token": "<s>", "eos_token": {"content": "</s>"}, "pad_token": None}
    templates = [{"name": "default", "template": "{{ messages }}"}, {"name": "tool_use"}]
    good = json.dumps({"chat_template": templates} | tokens).encode()
    return Format(good, damaged_json, _of_folder(folder, "tokenizer_config.json"))


def tokenizer_json_format(folder: Path) -> Format:
    folder.mkdir()

    def play(content: bytes) -> None:
        (folder / "tokenizer.json").write_bytes(content)
        tokenizer = TextTokenizer.of_folder(folder)
        for text in ("the end", " " * 300 + "ä\n\u20ac" * 20, "<s><s>"):
            tokenizer.decode(tokenizer.encode(text, 1))
        tokenizer.decode([0, 91, 90, 2**31, 5])

    return Format(_tokenizer(), damaged_json, play)


def safetensors_format(folder: Path) -> Format:
    write_model(folder)
    config, (path,) = read_config(folder), folder.glob("*.safetensors")
    good = path.read_bytes()
    n_header = 8 + int.from_bytes(good[:8], "little")

    def play(content: bytes) -> None:
        path.write_bytes(content)
        checkpoint = open_folder(folder, config)
        for stored in checkpoint.tensors.values():
            assert 0 <= stored.offset <= stored.offset + stored.n_bytes <= len(content)
        checkpoint.read("w1", 1, slice(0, 8), slice(0, 8))

    return Format(good, lambda c, chance: damaged_bytes(c, chance, n_header), play)


def index_format(folder: Path) -> Format:
    write_model(folder, n_files=2)
    config = read_config(folder)
    weights = {f"model.layers.{n}.mlp.up_proj.weight": f"model-{n}.safetensors" for n in (0, 1)}
    good = json.dumps({"metadata": {"total_size": 9}, "weight_map": weights}).encode()

    def play(content: bytes) -> None:
        (folder / "model.safetensors.index.json").write_bytes(content)
        open_folder(folder, config)

    return Format(good, damaged_json, play)


def gguf_format(folder: Path) -> Format:
    from tests.unit.test_gguf import write_file

    folder.mkdir()
    path = folder / "model.gguf"
    write_file(path)
    good = path.read_bytes()
    n_header = good.index(b"blk.0.ffn_norm.weight") + 60

    def play(content: bytes) -> None:
        path.write_bytes(content)
        file = GgufFile(path)
        checkpoint = file.checkpoint(file.config)
        for stored in checkpoint.tensors.values():
            assert 0 <= stored.offset <= stored.offset + stored.n_bytes <= len(content)
        checkpoint.read("w1", 0, slice(0, 8), slice(0, 8))
        TextTokenizer.of_gguf(file).encode("12 ab", 1)
        ChatTemplate.of_gguf(file)

    return Format(good, lambda c, chance: damaged_bytes(c, chance, n_header), play)


def params_format(folder: Path) -> Format:
    from tests.unit.test_meta import write_folder

    folder.mkdir()
    write_folder(folder)
    path = folder / "params.json"

    def play(content: bytes) -> None:
        path.write_bytes(content)
        open_meta(folder)

    return Format(path.read_bytes(), damaged_json, play)


def shard_cache_format(folder: Path) -> Format:
    write_model(folder)
    config = read_config(folder)
    sharding = Sharding(Layout(config, Mesh(1, 2)), 1)
    precision = PRECISIONS["performance"]
    path = folder / "cache" / ("a" * 32) / "1x2" / "rank001.safetensors"
    file = ShardFile(path, "key")
    load_chip_weights(open_folder(folder, config), sharding, precision, cache=file)
    weights = load_chip_weights(open_folder(folder, config), sharding, precision)

    parts = shard_parts(sharding, precision)

    def play(content: bytes) -> None:
        path.write_bytes(content)
        found = file.read(parts)
        if found is None:
            raise CheckpointError("not used, and made anew")
        # What is believed is what was written, to the last bit.
        assert found.tensors.keys() == weights.tensors.keys()
        for name, tensor in found.tensors.items():
            right = weights.tensors[name]
            assert (tensor.shape, tensor.dtype) == (right.shape, right.dtype)
            np.testing.assert_array_equal(tensor.data, right.data)
        assert found.vectors.keys() == weights.vectors.keys()
        for key, values in found.vectors.items():
            np.testing.assert_array_equal(values, weights.vectors[key])

    good = path.read_bytes()
    n_header = 8 + int.from_bytes(good[:8], "little")

    def damage(content: bytes, chance: random.Random) -> bytes:
        return damaged_bytes(content, chance, n_header + 64 if chance.random() < 0.9 else None)

    return Format(good, damage, play)
