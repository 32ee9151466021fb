"""Sizes of a Llama-family model."""

import math
from dataclasses import dataclass

import numpy as np

from galaxy_mpi.arrays import F32
from galaxy_mpi.errors import CheckpointError

__all__ = ["LARGEST_SIZE", "MOST_LAYERS", "LlamaConfig", "RopeScaling"]


MOST_LAYERS, LARGEST_SIZE = 1000, 2**26
"""Upper limits; a file with larger values is broken."""


@dataclass(frozen=True)
class RopeScaling:
    """Rotary frequencies of Llama 3.1 and later: low frequencies are lowered for long texts.

    References
    ----------
    .. [1] Meta, llama-models, models/llama3/reference_impl/model.py, ``apply_scaling``.
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position: int

    def __post_init__(self) -> None:
        _check_positive("factor", self.factor)
        _check_positive("low_freq_factor", self.low_freq_factor)
        _check_positive("high_freq_factor", self.high_freq_factor)
        if not self.low_freq_factor < self.high_freq_factor:
            raise CheckpointError(
                f"high_freq_factor ({self.high_freq_factor}) of the rotary scaling must be above "
                f"low_freq_factor ({self.low_freq_factor})"
            )

    def scale(self, frequencies: F32) -> F32:
        """Return the scaled frequencies, radians per position."""
        turns = self.original_max_position * frequencies / np.float32(2 * np.pi)
        low, high = self.low_freq_factor, self.high_freq_factor
        kept = np.clip((turns - low) / (high - low), 0, 1).astype(np.float32)
        slow = frequencies / np.float32(self.factor)
        scaled: F32 = (1 - kept) * slow + kept * frequencies
        return scaled


@dataclass(frozen=True, kw_only=True)
class LlamaConfig:
    """Sizes of one Llama-family model, as in its checkpoint."""

    dim: int
    hidden_dim: int
    """Feed-forward width F, as in the checkpoint (no 2/3 rule applied)."""
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    vocab_size: int
    norm_eps: float = 1e-5
    rope_theta: float = 500_000.0
    max_seq_len: int = 8192
    """Positions that the model supports."""
    rope_scaling: RopeScaling | None = None
    rope_factors: tuple[float, ...] | None = None
    """Divisor of each rotary frequency; GGUF files store the scaling in this form."""
    qkv_bias: bool = False
    """Whether q, k and v have a bias (Qwen2)."""
    qk_norm: bool = False
    """Whether query and key heads are normalised (Qwen3)."""
    tie_embeddings: bool = False
    eos_tokens: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in (
            "dim",
            "hidden_dim",
            "n_layers",
            "n_heads",
            "n_kv_heads",
            "head_dim",
            "vocab_size",
            "max_seq_len",
        ):
            size = getattr(self, name)
            if not isinstance(size, int) or isinstance(size, bool) or size < 1:
                raise CheckpointError(f"{name} must be a positive whole number, got {size!r}")
            most = MOST_LAYERS if name == "n_layers" else LARGEST_SIZE
            if size > most:
                raise CheckpointError(f"{name} must be at most {most}, got {size}")
        _check_positive("norm_eps", self.norm_eps)
        _check_positive("rope_theta", self.rope_theta)
        for factor in self.rope_factors or ():
            _check_positive("a rotary factor", factor)
        if self.n_heads % self.n_kv_heads:
            raise CheckpointError(
                f"n_kv_heads ({self.n_kv_heads}) must divide n_heads ({self.n_heads})"
            )
        n_factors = len(self.rope_factors or ())
        if n_factors not in (0, self.head_dim // 2):
            raise CheckpointError(
                f"{n_factors} rotary factors do not fit head_dim {self.head_dim}: one per pair"
            )
        if self.head_dim % 2:
            raise CheckpointError(f"head_dim must be even for rotary pairs, got {self.head_dim}")

    def inv_freq(self) -> F32:
        """Return the rotary frequencies, radians per position, shape (head_dim / 2,)."""
        exponents = np.arange(0, self.head_dim, 2, dtype=np.float32) / np.float32(self.head_dim)
        frequencies = np.float32(1) / np.power(np.float32(self.rope_theta), exponents)
        if self.rope_scaling is not None:
            frequencies = self.rope_scaling.scale(frequencies)
        if self.rope_factors is not None:
            frequencies = frequencies / np.array(self.rope_factors, np.float32)
        result: F32 = frequencies.astype(np.float32)
        return result


def _check_positive(name: str, value: float) -> None:
    # Outside of this range, float32 would be infinite or 0.
    bounds = np.finfo(np.float32)
    if not (float(bounds.tiny) <= value <= float(bounds.max) and math.isfinite(value)):
        raise CheckpointError(f"{name} must be a number above 0, got {value!r}")
