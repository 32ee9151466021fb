"""Hugging Face folders: ``config.json`` and safetensors files.

Every rank opens the folder and maps its files; a read touches only the pages of its own slice.
Headers are checked by the safetensors library when a file is opened, names and shapes against
``config.json`` before anything is read.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from galaxy_mpi.arrays import F32
from galaxy_mpi.errors import CheckpointError
from galaxy_mpi.models.config import LlamaConfig

__all__ = ["HuggingFaceCheckpoint", "read_config"]

ARCHITECTURES = ("LlamaForCausalLM",)

_NAMES = {
    "wq": "model.layers.{}.self_attn.q_proj.weight",
    "wk": "model.layers.{}.self_attn.k_proj.weight",
    "wv": "model.layers.{}.self_attn.v_proj.weight",
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

_ITEM: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
}


def read_config(folder: Path) -> LlamaConfig:
    """Return the sizes in ``config.json``.

    Raises
    ------
    CheckpointError
        If the file is missing, is no JSON, lacks a field, or names an architecture or a rotary
        scaling that is not known here.
    """
    path = folder / "config.json"
    fields = _read_json(path)
    architectures = fields.get("architectures")
    if not isinstance(architectures, list) or not set(architectures) & set(ARCHITECTURES):
        raise CheckpointError(
            f"{path}: architecture {architectures!r} is not known; "
            f"known: {', '.join(ARCHITECTURES)}"
        )
    for name in ("attention_bias", "mlp_bias"):
        if fields.get(name):
            raise CheckpointError(f"{path}: {name} is set, and biases are not known here")
    rope = fields.get("rope_parameters") or fields.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise CheckpointError(f"{path}: rope type {kind!r} is not known; known: default")
    try:
        n_heads = fields["num_attention_heads"]
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
            max_seq_len=fields.get("max_position_embeddings", 2048),
            tie_embeddings=bool(fields.get("tie_word_embeddings", False)),
            eos_tokens=_eos_tokens(folder, fields),
        )
    except KeyError as error:
        raise CheckpointError(
            f"{path} lacks the field {error.args[0]!r}; fetch the file again"
        ) from None
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise CheckpointError(f"{path} has a field of the wrong kind: {error}") from None


def _eos_tokens(folder: Path, fields: dict[str, Any]) -> tuple[int, ...]:
    """Return the tokens that end a text; ``generation_config.json`` comes first."""
    path = folder / "generation_config.json"
    eos = _read_json(path).get("eos_token_id") if path.is_file() else None
    if eos is None:
        eos = fields.get("eos_token_id")
    if eos is None:
        return ()
    return tuple(int(token) for token in (eos if isinstance(eos, list) else [eos]))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        fields = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"no {path.name} in {path.parent}; a Hugging Face folder holds config.json, "
            f"*.safetensors and tokenizer.json"
        ) from None
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} is not readable JSON: {error}; fetch the file again"
        ) from None
    if not isinstance(fields, dict):
        raise CheckpointError(f"{path} holds no JSON object")
    return fields


@dataclass(frozen=True)
class _Stored:
    """Where a tensor lies."""

    path: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int


class HuggingFaceCheckpoint:
    """The tensors of a folder, by Meta's names.

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

    def __init__(self, folder: Path, config: LlamaConfig) -> None:
        self._config = config
        self._stored: dict[str, _Stored] = {}
        self._maps: dict[Path, np.memmap[Any, np.dtype[np.uint8]]] = {}
        paths = sorted(folder.glob("*.safetensors"))
        if not paths:
            raise CheckpointError(
                f"no *.safetensors file in {folder}; fetch the weights of the model in this format"
            )
        for path in paths:
            for name, stored in _open_safetensors(path).items():
                if name in self._stored:
                    raise CheckpointError(
                        f"tensor {name} is in {path.name} and in {self._stored[name].path.name} "
                        f"of {folder}; leave the files of one download only"
                    )
                self._stored[name] = stored
        self._check(folder)

    def read(self, name: str, layer: int, rows: slice, cols: slice) -> F32:
        """Return a part of a matrix as float32; a vector is read as one row.

        See Also
        --------
        galaxy_mpi.models.TensorReader.read
        """
        stored = self._stored[_NAMES[name].format(layer)]
        shape = stored.shape if len(stored.shape) == 2 else (1, stored.shape[0])
        item = _ITEM[stored.dtype]
        n_bytes = int(np.prod(shape)) * item.itemsize
        if stored.path not in self._maps:
            self._maps[stored.path] = np.memmap(stored.path, np.uint8, mode="r")
        raw = self._maps[stored.path][stored.offset : stored.offset + n_bytes]
        part = raw.view(item).reshape(shape)[rows, cols]
        if stored.dtype == "BF16":
            return (part.astype(np.uint32) << 16).view(np.float32)
        values: F32 = part.astype(np.float32)
        return values

    def _check(self, folder: Path) -> None:
        c = self._config
        q, kv = c.n_heads * c.head_dim, c.n_kv_heads * c.head_dim
        shapes: dict[str, tuple[int, ...]] = {
            "wq": (q, c.dim),
            "wk": (kv, c.dim),
            "wv": (kv, c.dim),
            "wo": (c.dim, q),
            "w1": (c.hidden_dim, c.dim),
            "w3": (c.hidden_dim, c.dim),
            "w2": (c.dim, c.hidden_dim),
            "attention_norm": (c.dim,),
            "ffn_norm": (c.dim,),
            "norm": (c.dim,),
            "embedding": (c.vocab_size, c.dim),
            "output": (c.vocab_size, c.dim),
        }
        if c.tie_embeddings:
            del shapes["output"]
        for name, shape in shapes.items():
            for layer in range(c.n_layers if "{}" in _NAMES[name] else 1):
                full_name = _NAMES[name].format(layer)
                stored = self._stored.get(full_name)
                if stored is None:
                    raise CheckpointError(
                        f"tensor {full_name} is in no safetensors file of {folder}; "
                        f"is a file missing, or config.json another model's?"
                    )
                if stored.shape != shape:
                    raise CheckpointError(
                        f"tensor {full_name} in {stored.path} has shape {list(stored.shape)}, "
                        f"config.json asks for {list(shape)}; they belong to different models"
                    )
                if stored.dtype not in _ITEM:
                    raise CheckpointError(
                        f"tensor {full_name} in {stored.path} is {stored.dtype}; "
                        f"known: {', '.join(_ITEM)}"
                    )


def _open_safetensors(path: Path) -> dict[str, _Stored]:
    """Return the tensors of one file; the library has checked header, offsets and length."""
    try:
        with safe_open(str(path), framework="numpy"):
            pass
        with path.open("rb") as file:
            header_bytes = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(header_bytes))
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is damaged or cut short: {error}; fetch the file again"
        ) from None
    return {
        name: _Stored(
            path, entry["dtype"], tuple(entry["shape"]), 8 + header_bytes + entry["data_offsets"][0]
        )
        for name, entry in header.items()
        if name != "__metadata__"
    }
