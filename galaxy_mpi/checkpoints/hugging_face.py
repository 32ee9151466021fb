"""Hugging Face folders: ``config.json`` and safetensors files.

Headers are checked by the safetensors library when a file is opened, names and shapes against
``config.json``, all before anything is read.
"""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from galaxy_mpi.checkpoints.checkpoint import Checkpoint, expected_shapes
from galaxy_mpi.checkpoints.stored import PLAIN_KINDS, Stored
from galaxy_mpi.errors import CheckpointError
from galaxy_mpi.models.config import LlamaConfig, RopeScaling

__all__ = ["FAMILIES", "eos_tokens", "open_folder", "read_config", "read_json"]

FAMILIES: dict[str, dict[str, Any]] = {
    "LlamaForCausalLM": {},
    "MistralForCausalLM": {},
    "Qwen2ForCausalLM": {"qkv_bias": True},
    "Qwen3ForCausalLM": {"qk_norm": True},
}
"""Architectures, and what their layers have that Llama's do not."""

_NAMES = {
    "wq": "model.layers.{}.self_attn.q_proj.weight",
    "wk": "model.layers.{}.self_attn.k_proj.weight",
    "wv": "model.layers.{}.self_attn.v_proj.weight",
    "bq": "model.layers.{}.self_attn.q_proj.bias",
    "bk": "model.layers.{}.self_attn.k_proj.bias",
    "bv": "model.layers.{}.self_attn.v_proj.bias",
    "q_norm": "model.layers.{}.self_attn.q_norm.weight",
    "k_norm": "model.layers.{}.self_attn.k_norm.weight",
    "wo": "model.layers.{}.self_attn.o_proj.weight",
    "w1": "model.layers.{}.mlp.gate_proj.weight",
    "w2": "model.layers.{}.mlp.down_proj.weight",
    "w3": "model.layers.{}.mlp.up_proj.weight",
    "attention_norm": "model.layers.{}.input_layernorm.weight",
    "ffn_norm": "model.layers.{}.post_attention_layernorm.weight",
    "norm": "model.norm.weight",
    "embedding": "model.embed_tokens.weight",
    "output": "lm_head.weight",
}
"""Meta's names to Hugging Face's."""


def read_config(folder: Path) -> LlamaConfig:
    """Return the sizes in ``config.json``.

    Raises
    ------
    CheckpointError
        If the file is missing, is no JSON, lacks a field, or names an architecture or a rotary
        scaling that is not known here.
    """
    path = folder / "config.json"
    fields = read_json(path)
    architectures = fields.get("architectures")
    known = [a for a in architectures if a in FAMILIES] if isinstance(architectures, list) else []
    if not known:
        raise CheckpointError(
            f"{path}: architecture {architectures!r} is not known; known: {', '.join(FAMILIES)}"
        )
    for name in ("attention_bias", "mlp_bias"):
        if fields.get(name):
            raise CheckpointError(
                f"{path}: {name} is set; biases are known in q, k and v of Qwen2 only"
            )
    try:
        rope = fields.get("rope_parameters") or fields.get("rope_scaling") or {}
        n_heads = fields["num_attention_heads"]
        max_seq_len = fields.get("max_position_embeddings", 2048)
        if fields.get("sliding_window") and fields.get("use_sliding_window", True):
            # Within the window a sliding one sees all there is.
            max_seq_len = min(max_seq_len, fields["sliding_window"])
        return LlamaConfig(
            dim=fields["hidden_size"],
            hidden_dim=fields["intermediate_size"],
            n_layers=fields["num_hidden_layers"],
            n_heads=n_heads,
            n_kv_heads=fields.get("num_key_value_heads") or n_heads,
            head_dim=fields.get("head_dim") or fields["hidden_size"] // n_heads,
            vocab_size=fields["vocab_size"],
            norm_eps=float(fields["rms_norm_eps"]),
            rope_theta=float(rope.get("rope_theta") or fields.get("rope_theta") or 10_000.0),
            rope_scaling=_rope_scaling(rope),
            max_seq_len=max_seq_len,
            tie_embeddings=bool(fields.get("tie_word_embeddings", False)),
            eos_tokens=eos_tokens(folder, fields),
            **FAMILIES[known[0]],
        )
    except KeyError as error:
        raise CheckpointError(
            f"{path} lacks the field {error.args[0]!r}; fetch the file again"
        ) from None
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except (TypeError, ValueError, ZeroDivisionError, AttributeError) as error:
        raise CheckpointError(f"{path} has a field of the wrong kind: {error}") from None


def _rope_scaling(rope: dict[str, Any]) -> RopeScaling | None:
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return None
    if kind != "llama3":
        raise CheckpointError(f"rope type {kind!r} is not known; known: default, llama3")
    return RopeScaling(
        factor=float(rope["factor"]),
        low_freq_factor=float(rope["low_freq_factor"]),
        high_freq_factor=float(rope["high_freq_factor"]),
        original_max_position=int(rope["original_max_position_embeddings"]),
    )


def eos_tokens(folder: Path, fields: dict[str, Any]) -> tuple[int, ...]:
    """Return the tokens that end a text; ``generation_config.json`` comes first."""
    path = folder / "generation_config.json"
    eos = read_json(path).get("eos_token_id") if path.is_file() else None
    if eos is None:
        eos = fields.get("eos_token_id")
    if eos is None:
        return ()
    return tuple(int(token) for token in (eos if isinstance(eos, list) else [eos]))


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a file of a model folder.

    Raises
    ------
    CheckpointError
        If there is none.
    """
    try:
        fields = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"no {path.name} in {path.parent}; a Hugging Face folder holds config.json, "
            f"*.safetensors and tokenizer.json"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is not readable JSON: {error}; fetch the file again"
        ) from None
    if not isinstance(fields, dict):
        raise CheckpointError(f"{path} holds no JSON object")
    return fields


def open_folder(folder: Path, config: LlamaConfig) -> Checkpoint:
    """Return the tensors of a folder.

    Parameters
    ----------
    folder : Path
    config : LlamaConfig
        What `read_config` returned: says which tensors there must be, and their shapes.

    Raises
    ------
    CheckpointError
        If a file is damaged, or a tensor is missing or of another shape or dtype.
    """
    found: dict[str, Stored] = {}
    paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        raise CheckpointError(
            f"no *.safetensors file in {folder}; fetch the weights of the model in this format"
        )
    for path in paths:
        for stored in _open_safetensors(path):
            if stored.name in found:
                raise CheckpointError(
                    f"tensor {stored.name} is in {path.name} and in "
                    f"{found[stored.name].path.name} of {folder}; leave the files of one "
                    f"download only"
                )
            found[stored.name] = stored
    names = {key: _NAMES[key[0]].format(key[1]) for key in expected_shapes(config)}
    tensors = {key: found[name] for key, name in names.items() if name in found}
    for stored in tensors.values():
        if stored.kind not in PLAIN_KINDS:
            raise CheckpointError(
                f"tensor {stored.name} in {stored.path} is {stored.kind}; "
                f"known: {', '.join(PLAIN_KINDS)}"
            )
    checkpoint = Checkpoint(config, tensors)
    checkpoint.check(names, str(folder))
    return checkpoint


def _open_safetensors(path: Path) -> list[Stored]:
    """Return the tensors of one file; the library has checked header, offsets and length."""
    try:
        with safe_open(str(path), framework="numpy"):
            pass
        with path.open("rb") as file:
            header_bytes = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(header_bytes))
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is damaged or cut short: {error}; fetch the file again"
        ) from None
    tensors = []
    for name, entry in header.items():
        if name != "__metadata__":
            start, stop = entry["data_offsets"]
            place = 8 + header_bytes + start
            shape = tuple(entry["shape"])
            tensors.append(Stored(path, name, entry["dtype"], shape, place, stop - start))
    return tensors
