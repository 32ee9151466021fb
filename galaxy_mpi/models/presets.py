"""Sizes of published models, for runs that need no weights."""

from dataclasses import replace

from galaxy_mpi.models.config import LlamaConfig

__all__ = ["PRESETS"]

_LLAMA3_8B = LlamaConfig(
    dim=4096,
    hidden_dim=14336,
    n_layers=32,
    n_heads=32,
    n_kv_heads=8,
    head_dim=128,
    vocab_size=128256,
    rope_theta=500_000.0,
    max_seq_len=131_072,
)

PRESETS = {
    "llama3-8b": _LLAMA3_8B,
    "llama3-70b": replace(_LLAMA3_8B, dim=8192, hidden_dim=28672, n_layers=80, n_heads=64),
    "qwen3-32b": replace(
        _LLAMA3_8B,
        dim=5120,
        hidden_dim=25600,
        n_layers=64,
        n_heads=64,
        vocab_size=151936,
        rope_theta=1e6,
        norm_eps=1e-6,
    ),
}
"""By name. Sources: config.json of each model's release."""
