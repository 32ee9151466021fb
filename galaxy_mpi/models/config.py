"""Sizes of a Llama-family model."""

from dataclasses import dataclass

import numpy as np

from galaxy_mpi.arrays import F32
from galaxy_mpi.errors import CheckpointError, MeshError
from galaxy_mpi.mesh import Mesh

__all__ = ["LlamaConfig"]


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
    """Positions the model was made for."""
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
        if self.n_heads % self.n_kv_heads:
            raise CheckpointError(
                f"n_kv_heads ({self.n_kv_heads}) must divide n_heads ({self.n_heads})"
            )
        if self.head_dim % 2:
            raise CheckpointError(f"head_dim must be even for rotary pairs, got {self.head_dim}")

    def check_fits(self, mesh: Mesh) -> None:
        """Raise if this model cannot be spread over ``mesh`` without padding.

        Raises
        ------
        MeshError
            Naming the size and what it must divide by.
        """
        for name, size, parts, what in (
            ("n_kv_heads", self.n_kv_heads, mesh.rows, "rows"),
            ("vocab_size", self.vocab_size, mesh.rows, "rows"),
            ("dim", self.dim, mesh.cols, "columns"),
            ("hidden_dim", self.hidden_dim, mesh.n_chips, "chips"),
        ):
            if size % parts:
                raise MeshError(
                    f"{name} ({size}) of the model must divide by the {parts} {what} of the "
                    f"{mesh} mesh; choose another --mesh"
                )

    def inv_freq(self) -> F32:
        """Return the rotary frequencies, radians per position, shape (head_dim / 2,)."""
        exponents = np.arange(0, self.head_dim, 2, dtype=np.float32) / np.float32(self.head_dim)
        frequencies = np.float32(1) / np.power(np.float32(self.rope_theta), exponents)
        result: F32 = frequencies.astype(np.float32)
        return result
