"""GGUF files: sizes, tensors and tokenizer of a model in one file, read with the gguf library.

Note that files of architecture ``llama`` hold the rows of q and k in Meta's order, those of
``qwen2`` and ``qwen3`` in Hugging Face's; dims are written fastest first; scaled rotary frequencies
are a tensor.
"""

from pathlib import Path

import numpy as np

from galaxy_mpi.checkpoints.checkpoint import Checkpoint, expected_shapes
from galaxy_mpi.checkpoints.gguf_header import walk_header
from galaxy_mpi.checkpoints.stored import PLAIN_KINDS, FileMaps, Stored
from galaxy_mpi.errors import CheckpointError
from galaxy_mpi.fields import shown
from galaxy_mpi.json_values import Json, JsonObject
from galaxy_mpi.models.config import LlamaConfig

__all__ = ["GgufFile"]

ARCHITECTURES: dict[str, JsonObject] = {
    "llama": {},
    "qwen2": {"qkv_bias": True},
    "qwen3": {"qk_norm": True},
}
"""Architectures with features that Llama lacks. Mistral's files are called ``llama``."""

_NEUTRAL: dict[str, tuple[object, ...]] = {
    "rope.scaling.type": ("none", ""),
    "rope.scaling.attn_factor": (1,),
    "expert_count": (0,),
    "expert_used_count": (0,),
    "attention.logit_softcapping": (0,),
    "final_logit_softcapping": (0,),
    "attn_logit_softcapping": (0,),
    "attention.scale": (0,),
    "attention.clamp_kqv": (0,),
    "attention.max_alibi_bias": (0,),
    "attention.causal": (True,),
    "logit_scale": (0, 1),
    "embedding_scale": (0, 1),
    "residual_scale": (0, 1),
    "use_parallel_residual": (False,),
}
"""Unsupported fields that change the maths, with their neutral values."""

_NAMES = {
    "wq": "blk.{}.attn_q.weight",
    "wk": "blk.{}.attn_k.weight",
    "wv": "blk.{}.attn_v.weight",
    "bq": "blk.{}.attn_q.bias",
    "bk": "blk.{}.attn_k.bias",
    "bv": "blk.{}.attn_v.bias",
    "q_norm": "blk.{}.attn_q_norm.weight",
    "k_norm": "blk.{}.attn_k_norm.weight",
    "wo": "blk.{}.attn_output.weight",
    "w1": "blk.{}.ffn_gate.weight",
    "w2": "blk.{}.ffn_down.weight",
    "w3": "blk.{}.ffn_up.weight",
    "attention_norm": "blk.{}.attn_norm.weight",
    "ffn_norm": "blk.{}.ffn_norm.weight",
    "norm": "output_norm.weight",
    "embedding": "token_embd.weight",
    "output": "output.weight",
}


class GgufFile:
    """One file, its header read and checked.

    Parameters
    ----------
    path : Path

    Raises
    ------
    CheckpointError
        If it is not a GGUF file, is damaged or truncated, or its model is not supported.

    Attributes
    ----------
    config : LlamaConfig
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fields, tensors = _read_header(path)
        self._stored = {stored.name: stored for stored in tensors}
        try:
            self.config = self._config()
        except (KeyError, TypeError, ValueError, IndexError, ZeroDivisionError) as error:
            if isinstance(error, CheckpointError):
                raise
            raise CheckpointError(
                f"{path}: the header lacks a field or has one of the wrong kind: {error}; fetch "
                f"the file again"
            ) from None

    def field(self, name: str, default: object = None) -> Json:
        """Return a field of the header."""
        return self._fields.get(name, default)

    def checkpoint(self, config: LlamaConfig) -> Checkpoint:
        """Return the tensors of ``config``: this file's, or fewer layers of it.

        Raises
        ------
        CheckpointError
            If a tensor is missing, of another shape or of a format that is not known.
        """
        names = {key: _NAMES[key[0]].format(key[1]) for key in expected_shapes(config)}
        tensors = {key: self._stored[name] for key, name in names.items() if name in self._stored}
        interleaved = self.field("general.architecture") == "llama"
        checkpoint = Checkpoint(config, tensors, interleaved)
        checkpoint.check(names, str(self._path))
        return checkpoint

    def _config(self) -> LlamaConfig:
        architecture = self._fields["general.architecture"]
        if architecture not in ARCHITECTURES:
            raise CheckpointError(
                f"{self._path}: architecture {architecture!r} is not known; "
                f"known: {', '.join(ARCHITECTURES)}"
            )

        def size(name: str, default: object = None) -> Json:
            value = self._fields.get(f"{architecture}.{name}", default)
            if value is None:
                raise KeyError(f"{architecture}.{name}")
            return value

        for name, neutral in _NEUTRAL.items():
            value = self._fields.get(f"{architecture}.{name}")
            if value is not None and value not in neutral:
                raise CheckpointError(
                    f"{self._path}: {architecture}.{name} is {shown(value)}, which changes the "
                    f"maths and is not supported; choose another model"
                )
        dim, n_heads = size("embedding_length"), size("attention.head_count")
        head_dim = size("attention.key_length", dim // n_heads)
        for name in ("rope.dimension_count", "attention.value_length"):
            if size(name, head_dim) != head_dim:
                raise CheckpointError(
                    f"{self._path}: {architecture}.{name} is {shown(size(name))}, heads have "
                    f"{head_dim}; partially rotated heads, or heads of two sizes, are not "
                    f"supported; choose another model"
                )
        window = size("attention.sliding_window", 0)
        eos = [self.field(f"tokenizer.ggml.{kind}_token_id") for kind in ("eos", "eot")]
        return LlamaConfig(
            dim=dim,
            hidden_dim=size("feed_forward_length"),
            n_layers=size("block_count"),
            n_heads=n_heads,
            n_kv_heads=size("attention.head_count_kv", n_heads),
            head_dim=head_dim,
            vocab_size=self._stored["token_embd.weight"].shape[0],
            norm_eps=float(size("attention.layer_norm_rms_epsilon")),
            rope_theta=float(size("rope.freq_base", 10_000.0)),
            rope_factors=self._rope_factors(),
            # Within its window, sliding attention sees everything.
            max_seq_len=min(size("context_length"), window or size("context_length")),
            tie_embeddings="output.weight" not in self._stored,
            eos_tokens=tuple(dict.fromkeys(int(token) for token in eos if token is not None)),
            **ARCHITECTURES[architecture],
        )

    def _rope_factors(self) -> tuple[float, ...] | None:
        """Return the divisor of each rotary frequency, None for 1."""
        stored = self._stored.get("rope_freqs.weight")
        if stored is None:
            return None
        factors = FileMaps().reader(stored, slice(None))(slice(None))
        return tuple(float(factor) for factor in factors[0])


def _read_header(path: Path) -> tuple[dict[str, object], list[Stored]]:
    """Return fields and tensors of a file; tensors are within the file and do not overlap."""
    from gguf import GGUFReader  # imported here: only rank 0, and only for GGUF

    try:
        content = np.memmap(path, np.uint8, mode="r")
        walk_header(content)
        reader = GGUFReader(path)
        fields = {name: field.contents() for name, field in reader.fields.items()}
        tensors = [
            Stored(
                path,
                tensor.name,
                tensor.tensor_type.name,
                tuple(int(n) for n in reversed(tensor.shape)),
                int(tensor.data_offset),
                int(tensor.n_bytes),
            )
            for tensor in reader.tensors
        ]
    except Exception as error:  # a broken header can make the library raise anything
        raise CheckpointError(
            f"{path} is damaged, truncated or not a GGUF file: {type(error).__name__}: {error}; "
            f"fetch the file again"
        ) from None
    end = 0
    for stored in sorted(tensors, key=lambda tensor: tensor.offset):
        if stored.offset < end or stored.offset + stored.n_bytes > len(content):
            raise CheckpointError(
                f"{path}: tensor {stored.name} overlaps another one or the end of the file; "
                f"fetch the file again"
            )
        end = stored.offset + stored.n_bytes
        _check_kind(stored)
    return fields, tensors


def _check_kind(stored: Stored) -> None:
    """Raise if a tensor's format is not supported, or its size does not match its shape."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
    from gguf.quants import _type_traits

    kind = GGMLQuantizationType[stored.kind]
    if stored.kind not in PLAIN_KINDS and kind not in _type_traits:
        raise CheckpointError(
            f"tensor {stored.name} in {stored.path} is {stored.kind}, which the gguf library does "
            f"not read; take another quantisation of the model"
        )
    per_block, block_bytes = GGML_QUANT_SIZES[kind]
    n_rows, n_cols = stored.matrix_shape if stored.shape else (0, 0)
    if (
        len(stored.shape) not in (1, 2)
        or n_rows * n_cols // per_block * block_bytes != (stored.n_bytes)
        or n_cols % per_block
    ):
        raise CheckpointError(
            f"tensor {stored.name} in {stored.path} has shape {list(stored.shape)} and "
            f"{stored.n_bytes} bytes of {stored.kind}, which do not fit; fetch the file again"
        )
