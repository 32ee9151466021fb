"""``config.json`` and ``generation_config.json`` of Hugging Face folders, field by field."""

from dataclasses import dataclass
from pathlib import Path

from galaxy_mpi.checkpoints.config_keys import check_keys, unknown_keys
from galaxy_mpi.errors import CheckpointError
from galaxy_mpi.fields import Fields, read_json_fields, shown
from galaxy_mpi.json_values import JsonObject
from galaxy_mpi.models.config import LARGEST_SIZE, MOST_LAYERS, LlamaConfig, RopeScaling

__all__ = [
    "FAMILIES",
    "Advice",
    "eos_tokens",
    "notes_on_config",
    "read_advice",
    "read_config",
    "read_json",
]

FAMILIES: dict[str, JsonObject] = {
    "LlamaForCausalLM": {},
    "MistralForCausalLM": {},
    "Qwen2ForCausalLM": {"qkv_bias": True},
    "Qwen3ForCausalLM": {"qk_norm": True},
}
"""Architectures, and what their layers have that Llama's do not."""

_ROPE_KEYS = """
rope_type type rope_theta partial_rotary_factor factor low_freq_factor high_freq_factor
original_max_position_embeddings"""

_LARGEST_TOKEN = 2**26


@dataclass(frozen=True)
class Advice:
    """Recommended sampling of a model (``generation_config.json``)."""

    does_sample: bool = False
    temperature: float = 1.0
    top_k: int | None = None
    """None: all."""
    top_p: float = 1.0


def read_config(folder: Path) -> LlamaConfig:
    """Return the sizes in ``config.json``.

    Raises
    ------
    CheckpointError
        If the file is missing or not JSON, a field is missing or invalid, or the architecture or
        its maths is not supported.
    """
    fields = read_json(folder / "config.json")
    architectures = fields.raw("architectures")
    known = [a for a in architectures if a in FAMILIES] if _is_names(architectures) else []
    if not known:
        raise CheckpointError(
            f"{fields.where}: architecture {shown(architectures)} is not known; "
            f"known: {', '.join(FAMILIES)}"
        )
    check_keys(fields)
    rope = fields.object("rope_parameters" if "rope_parameters" in fields else "rope_scaling")
    theta = rope if "rope_theta" in rope else fields
    n_heads = _size(fields, "num_attention_heads")
    dim = _size(fields, "hidden_size")
    try:
        return LlamaConfig(
            dim=dim,
            hidden_dim=_size(fields, "intermediate_size"),
            n_layers=fields.whole("num_hidden_layers", most=MOST_LAYERS),
            n_heads=n_heads,
            n_kv_heads=_size(fields, "num_key_value_heads", n_heads),
            head_dim=_size(fields, "head_dim", max(dim // n_heads, 1)),
            vocab_size=_size(fields, "vocab_size"),
            norm_eps=fields.number("rms_norm_eps", most=1.0),
            rope_theta=theta.number("rope_theta", 10_000.0),
            rope_scaling=_rope_scaling(rope),
            max_seq_len=_max_seq_len(fields),
            tie_embeddings=fields.flag("tie_word_embeddings", False),
            eos_tokens=eos_tokens(folder, fields),
            **FAMILIES[known[0]],
        )
    except CheckpointError as error:
        if str(error).startswith(str(folder)):
            raise
        raise CheckpointError(f"{fields.where}: {error}") from None


def notes_on_config(folder: Path) -> list[str]:
    """Return notes on ``config.json`` for the user: its unknown keys."""
    fields = read_json(folder / "config.json")
    unknown = unknown_keys(fields)
    rope = fields.object("rope_parameters" if "rope_parameters" in fields else "rope_scaling")
    unknown += [f"rope_parameters.{name}" for name in rope.names if name not in _ROPE_KEYS.split()]
    if not unknown:
        return []
    names = ", ".join(shown(name)[1:-1] for name in unknown[:20])
    more = f" and {len(unknown) - 20} more" if len(unknown) > 20 else ""
    return [f"{fields.where}: unknown and ignored: {names}{more}"]


def _size(fields: Fields, name: str, default: int | None = None) -> int:
    return fields.whole(name, default, most=LARGEST_SIZE)


def _is_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _max_seq_len(fields: Fields) -> int:
    """Return the positions of the model; a sliding window limits them."""
    n_positions = _size(fields, "max_position_embeddings", 2048)
    layer_types = fields.raw("layer_types") or []
    known = ("full_attention", "sliding_attention")
    if not isinstance(layer_types, list) or not all(kind in known for kind in layer_types):
        raise fields.wrong("layer_types", f"a list of {' and '.join(known)}")
    slides = "sliding_attention" in layer_types or fields.flag("use_sliding_window", True)
    if "sliding_window" in fields:
        # Some files say 0 or -1 for none.
        window = fields.whole("sliding_window", least=-1, most=LARGEST_SIZE)
        if window > 0 and slides:
            return min(n_positions, window)
    return n_positions


def _rope_scaling(rope: Fields) -> RopeScaling | None:
    if any(isinstance(rope.raw(name), dict) for name in rope.names):
        raise CheckpointError(f"{rope.where} differs by kind of layer, which is not supported")
    kind = rope.text("rope_type", rope.text("type", "default"))
    if rope.number("partial_rotary_factor", 1.0) != 1.0:
        raise CheckpointError(
            f"{rope.where}: partial_rotary_factor is {shown(rope.raw('partial_rotary_factor'))}; "
            f"only whole heads are rotated here; choose another model"
        )
    if kind == "default":
        return None
    if kind != "llama3":
        raise CheckpointError(
            f"{rope.where}: rope type {shown(kind)} is not known; known: default, llama3"
        )
    return RopeScaling(
        factor=rope.number("factor"),
        low_freq_factor=rope.number("low_freq_factor"),
        high_freq_factor=rope.number("high_freq_factor"),
        original_max_position=rope.whole("original_max_position_embeddings", most=LARGEST_SIZE),
    )


def eos_tokens(folder: Path, fields: Fields | None = None) -> tuple[int, ...]:
    """Return the tokens that end a text; ``generation_config.json`` comes first."""
    advice = _generation(folder)
    of = advice if advice is not None and "eos_token_id" in advice else fields
    return () if of is None else of.wholes("eos_token_id", most=_LARGEST_TOKEN)


def read_advice(folder: Path) -> Advice:
    """Return the sampling of ``generation_config.json``; greedy if there is none.

    Raises
    ------
    CheckpointError
        If it has invalid values.
    """
    fields = _generation(folder)
    if fields is None:
        return Advice()
    # In some files, 0 for top_k or top_p means no limit.
    top_k = fields.whole("top_k", 0, least=0)
    top_p = fields.number("top_p", 1.0, above=-1e-9, most=1.0)
    temperature = fields.number("temperature", 1.0, above=-1e-9, most=1e6)
    return Advice(fields.flag("do_sample", False), temperature, top_k or None, top_p or 1.0)


def _generation(folder: Path) -> Fields | None:
    path = folder / "generation_config.json"
    return read_json(path) if path.is_file() else None


def read_json(path: Path) -> Fields:
    """Return the fields of the object in a file of a model folder.

    Raises
    ------
    CheckpointError
        If there is none.
    """
    if not path.exists():
        raise CheckpointError(
            f"no {path.name} in {path.parent}; a Hugging Face folder holds config.json, "
            f"*.safetensors and tokenizer.json"
        )
    return read_json_fields(path, str(path), CheckpointError)
