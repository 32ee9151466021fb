"""Weights made up on the spot, for runs in which only sizes matter."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from zlib import crc32

import numpy as np

from galaxy_mpi.arrays import F32, Ints
from galaxy_mpi.checkpoints.checkpoint import expected_shapes
from galaxy_mpi.models.config import LlamaConfig

__all__ = ["RandomCheckpoint"]

_N_VALUES = 2**20


@dataclass(frozen=True)
class RandomCheckpoint:
    """A model of any size in 4 MiB: every row is a piece of one random sequence.

    A value depends on tensor, row and column alone, so all meshes have the same model. Products
    keep their size: the standard deviation is one over the root of the inputs.

    Parameters
    ----------
    config : LlamaConfig
    seed : int
    """

    config: LlamaConfig
    seed: int = 0

    @property
    def key(self) -> str:
        """A name that two models share only if their weights are equal, as of a fingerprint."""
        import hashlib  # imported here: only rank 0 asks

        return hashlib.sha256(f"{_N_VALUES} {self.seed} {self.config}".encode()).hexdigest()[:32]

    @cached_property
    def _values(self) -> F32:
        widest = max(self.config.dim, self.config.hidden_dim, self._q_width)
        normal = np.random.Generator(np.random.Philox(self.seed)).standard_normal(
            _N_VALUES, np.float32
        )
        return np.concatenate([normal, np.resize(normal, widest)])

    @cached_property
    def _shapes(self) -> dict[tuple[str, int], tuple[int, ...]]:
        return expected_shapes(self.config)

    @property
    def _q_width(self) -> int:
        return self.config.n_heads * self.config.head_dim

    def read(self, name: str, layer: int, rows: slice, cols: slice) -> F32:
        """Return a part of a matrix; see `galaxy_mpi.models.TensorReader.read`."""
        shape = self._shapes[name, layer]
        n_rows = shape[0] if len(shape) == 2 else 1
        return self._rows(name, layer, np.arange(*rows.indices(n_rows)), cols)

    def row_reader(self, name: str, cols: slice) -> Callable[[Ints], F32]:
        """Return what reads single rows of a matrix that belongs to no layer."""
        n_cols = self._shapes[name, -1][-1]
        places, factor = np.arange(*cols.indices(n_cols)), np.float32(n_cols**-0.5)

        def read(rows: Ints) -> F32:
            found: F32 = self._values[self._starts(name, -1, rows)[:, None] + places] * factor
            return found

        return read

    def _rows(self, name: str, layer: int, rows: Ints, cols: slice) -> F32:
        n_cols = self._shapes[name, layer][-1]
        start, stop, _ = cols.indices(n_cols)
        if name.endswith("norm"):
            return np.ones((len(rows), stop - start), np.float32)
        starts = self._starts(name, layer, rows)
        out = np.empty((len(rows), stop - start), np.float32)
        for row, at in zip(out, starts.tolist(), strict=True):
            row[...] = self._values[at + start : at + stop]
        out *= np.float32(n_cols**-0.5)
        return out

    @staticmethod
    def _starts(name: str, layer: int, rows: Ints) -> Ints:
        """Return where each row begins among the values that all tensors share."""
        first = crc32(f"{name}.{layer}".encode())
        starts: Ints = (first + rows.astype(np.int64) * 40_503) % _N_VALUES
        return starts
