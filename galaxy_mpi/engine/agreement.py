"""Agreement of a run's predictions with the reference, transformers in float32."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from galaxy_mpi.arrays import F32
from galaxy_mpi.checkpoints.model_files import ModelFiles
from galaxy_mpi.engine.teacher import Answers
from galaxy_mpi.errors import ConfigError
from galaxy_mpi.json_values import JsonObject
from galaxy_mpi.models import LlamaConfig

__all__ = ["Agreement", "compare", "reference_answers"]

_NAMES = {
    "wq": "self_attn.q_proj.weight",
    "wk": "self_attn.k_proj.weight",
    "wv": "self_attn.v_proj.weight",
    "bq": "self_attn.q_proj.bias",
    "bk": "self_attn.k_proj.bias",
    "bv": "self_attn.v_proj.bias",
    "q_norm": "self_attn.q_norm.weight",
    "k_norm": "self_attn.k_norm.weight",
    "wo": "self_attn.o_proj.weight",
    "w1": "mlp.gate_proj.weight",
    "w2": "mlp.down_proj.weight",
    "w3": "mlp.up_proj.weight",
    "attention_norm": "input_layernorm.weight",
    "ffn_norm": "post_attention_layernorm.weight",
}


@dataclass(frozen=True)
class Agreement:
    """Figures of one precision."""

    precision: str
    positions: int
    """Number of positions compared."""
    top1: float
    """Share of positions where both have the same best token."""
    top5: float
    """Share of positions where the best token is among the reference's five best."""
    logits_pcc: float
    """Pearson's correlation of all logits."""
    perplexity: float
    reference_perplexity: float
    stream_pcc: list[float]
    """Pearson's correlation of the residual stream after each layer."""

    def to_dict(self) -> JsonObject:
        """Return the figures of the report."""
        return dict(self.__dict__)


def compare(precision: str, found: Answers, right: Answers, tokens: list[int]) -> Agreement:
    """Compare predictions at the positions of a text that both have."""
    first, n = found.first, len(found.logits_TV)
    positions = slice(first, first + n)
    right = Answers(right.logits_TV[positions], right.streams_LTD[:, positions], first)
    tokens = tokens[first : first + n + 1]
    best = right.logits_TV.argmax(axis=1)
    ours = found.logits_TV.argmax(axis=1)
    five = np.argpartition(-right.logits_TV, min(4, right.logits_TV.shape[1] - 1), axis=1)[:, :5]
    return Agreement(
        precision=precision,
        positions=n,
        top1=float(np.mean(ours == best)),
        top5=float(np.mean((five == ours[:, None]).any(axis=1))),
        logits_pcc=_pcc(found.logits_TV, right.logits_TV),
        perplexity=_perplexity(found.logits_TV, tokens),
        reference_perplexity=_perplexity(right.logits_TV, tokens),
        stream_pcc=[
            _pcc(ours, theirs)
            for ours, theirs in zip(found.streams_LTD, right.streams_LTD, strict=True)
        ],
    )


def _pcc(ours: F32, theirs: F32) -> float:
    """Return Pearson's correlation, in float64."""
    a, b = (values.astype(np.float64).reshape(-1) for values in (ours, theirs))
    a -= a.mean()
    b -= b.mean()
    return float(a @ b / math.sqrt(float(a @ a) * float(b @ b)))


def _perplexity(logits_TV: F32, tokens: list[int]) -> float:
    logits = logits_TV[: len(tokens) - 1].astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    surprise = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(logits)), tokens[1:]]
    return math.exp(float(surprise.mean()))


def reference_answers(
    files: ModelFiles, tokens: list[int], inputs: dict[str, list[F32]] | None = None
) -> Answers:
    """Return the predictions of transformers in float32, with the checkpoint's weights.

    Parameters
    ----------
    files : ModelFiles
    tokens : list of int
    inputs : dict of str to list, optional
        Filled with inputs of matmuls, (T, W) per layer: ``attention`` and ``act``.

    Raises
    ------
    ConfigError
        If transformers is not installed.
    """
    try:
        import torch
        import transformers
    except ImportError:
        raise ConfigError(
            "accuracy compares with transformers, which is not installed: pip install torch "
            "transformers"
        ) from None
    config, whole = files.config, slice(None)
    family = "Qwen3" if config.qk_norm else "Qwen2" if config.qkv_bias else "Llama"
    # The frequencies are set below, from the checkpoint.
    settings = getattr(transformers, f"{family}Config")(**_sizes(config))
    model = getattr(transformers, f"{family}ForCausalLM")(settings).eval()

    def read(name: str, layer: int) -> Any:
        values = files.checkpoint.read(name, layer, whole, whole)
        is_vector = "norm" in name or name in ("bq", "bk", "bv")
        return torch.from_numpy(np.array(values[0] if is_vector else values))

    state = {
        f"model.layers.{layer}.{full}": read(name, layer)
        for layer in range(config.n_layers)
        for name, full in _NAMES.items()
        if (config.qkv_bias or name not in ("bq", "bk", "bv"))
        and (config.qk_norm or name not in ("q_norm", "k_norm"))
    }
    state["model.norm.weight"] = read("norm", -1)
    state["model.embed_tokens.weight"] = read("embedding", -1)
    head = "embedding" if config.tie_embeddings else "output"
    state["lm_head.weight"] = read(head, -1)
    model.load_state_dict(state)
    model.model.rotary_emb.inv_freq = torch.from_numpy(np.array(config.inv_freq()))
    streams: list[F32] = []
    for layer in model.model.layers:
        layer.register_forward_hook(lambda _m, _i, out: streams.append(_first(out)))
        for name, part in (("attention", layer.self_attn.o_proj), ("act", layer.mlp.down_proj)):
            if inputs is not None:
                kept = inputs.setdefault(name, [])
                part.register_forward_pre_hook(
                    lambda _m, given, kept=kept: kept.append(_first(given))
                )
    with torch.no_grad():
        logits = model(torch.tensor([tokens]), use_cache=False).logits[0]
    return Answers(logits.float().numpy(), np.stack(streams))


def _first(output: Any) -> F32:
    """Return the residual stream after a layer, (T, D)."""
    stream = output[0] if isinstance(output, tuple) else output
    values: F32 = stream.detach().float().reshape(-1, stream.shape[-1]).numpy()
    return values


def _sizes(config: LlamaConfig) -> JsonObject:
    return {
        "hidden_size": config.dim,
        "intermediate_size": config.hidden_dim,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.head_dim,
        "vocab_size": config.vocab_size,
        "rms_norm_eps": config.norm_eps,
        "max_position_embeddings": config.max_seq_len,
        "tie_word_embeddings": config.tie_embeddings,
        "attention_bias": False,
    }
