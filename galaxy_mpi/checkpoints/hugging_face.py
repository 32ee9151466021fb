"""Hugging Face folders: their safetensors files.

Headers are checked by the safetensors library when a file is opened, names and shapes against
``config.json``, all before anything is read.
"""

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open

from galaxy_mpi.checkpoints.checkpoint import Checkpoint, expected_shapes
from galaxy_mpi.checkpoints.stored import PLAIN_KINDS, Stored
from galaxy_mpi.errors import CheckpointError
from galaxy_mpi.models.config import LlamaConfig

__all__ = ["open_folder"]

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


def open_folder(folder: Path, config: LlamaConfig) -> Checkpoint:
    """Return the tensors of a folder.

    Parameters
    ----------
    folder : Path
    config : LlamaConfig
        What `galaxy_mpi.checkpoints.read_config` returned: says which tensors there must be, and
        their shapes.

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
