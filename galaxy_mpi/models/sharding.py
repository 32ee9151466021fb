"""Who holds what: the one place that cuts weights over the mesh.

=============  ==========  ==============  ====================================================
weight         (in, out)   rows cut        columns cut
=============  ==========  ==============  ====================================================
wqkv           D, (N+2K)H  out, by heads   in
wo             NH, D       in, by heads    out
w1, w3         D, F        out             in
w2             F, D        in              out
embedding      V, D        -               D
norm gains     D           -               D
lm_head        D, V        V               in
=============  ==========  ==============  ====================================================

Row r's slice of wqkv is [its query heads | its key heads | its value heads].
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from galaxy_mpi.arrays import F32, Bytes, Ints
from galaxy_mpi.dtypes import TILE, DType, PackedTensor, padded
from galaxy_mpi.mesh import Mesh
from galaxy_mpi.models.config import LlamaConfig
from galaxy_mpi.prefetch import WeightId
from galaxy_mpi.systems.fused_ops import HeadLayout
from galaxy_mpi.systems.precision import Precision

__all__ = ["ChipWeights", "Sharding", "TensorReader", "load_chip_weights"]

LAYER_WEIGHTS = ("wqkv", "wo", "w1", "w3", "w2")
"""The matmul weights of a layer in the order in which decode takes them."""


class TensorReader(Protocol):
    """An open checkpoint. Names are Meta's: wq, wk, wv, wo, w1, w2, w3, and the rest."""

    def read(self, name: str, layer: int, rows: slice, cols: slice) -> F32:
        """Return a part of a matrix, stored (out, in), reading nothing else of the file.

        Parameters
        ----------
        name : str
            ``wq`` ... ``w3``, ``attention_norm``, ``ffn_norm``, ``norm``, ``embedding``,
            ``output``.
        layer : int
            Layer number; ignored for tensors that belong to no layer.
        rows, cols : slice
            Of the stored matrix; a vector is read as one row.
        """


@dataclass(frozen=True)
class Sharding:
    """The local sizes and slices of one chip. ``n_local_*`` never replace the model's own."""

    config: LlamaConfig
    mesh: Mesh
    rank: int

    @property
    def row(self) -> int:
        """This chip's row."""
        return self.mesh.coord(self.rank)[0]

    @property
    def col(self) -> int:
        """This chip's column."""
        return self.mesh.coord(self.rank)[1]

    @property
    def heads(self) -> HeadLayout:
        """Heads of this chip."""
        return HeadLayout(
            self.config.n_heads // self.mesh.rows,
            self.config.n_kv_heads // self.mesh.rows,
            self.config.head_dim,
        )

    def row_part(self, size: int) -> slice:
        """Return this row's part of a dim of ``size``."""
        width = size // self.mesh.rows
        return slice(self.row * width, (self.row + 1) * width)

    def col_part(self, size: int) -> slice:
        """Return this column's part of a dim of ``size``."""
        width = size // self.mesh.cols
        return slice(self.col * width, (self.col + 1) * width)

    def matrices(self) -> dict[str, list[tuple[str, slice, slice]]]:
        """Return, per weight, which parts (name, out, in) of stored matrices make it up."""
        c = self.config
        q, kv = c.n_heads * c.head_dim, c.n_kv_heads * c.head_dim
        dim, hidden = self.col_part(c.dim), self.row_part(c.hidden_dim)
        return {
            "wqkv": [
                ("wq", self.row_part(q), dim),
                ("wk", self.row_part(kv), dim),
                ("wv", self.row_part(kv), dim),
            ],
            "wo": [("wo", dim, self.row_part(q))],
            "w1": [("w1", hidden, dim)],
            "w3": [("w3", hidden, dim)],
            "w2": [("w2", dim, hidden)],
        }


@dataclass(frozen=True)
class ChipWeights:
    """All weights of one chip."""

    tensors: dict[WeightId, PackedTensor]
    """Matmul weights, packed."""
    head: list[WeightId]
    """Pieces of the language-model head, in the order of the vocabulary."""
    gains: dict[tuple[int, str], F32]
    """Norm gains, (D/C,) each: (layer, name); the final norm is (-1, "norm")."""
    embedding: Bytes
    """Packed rows, one a token."""
    embedding_dtype: DType
    dim_shard: int
    """D/C."""

    def embed(self, tokens_B: Ints) -> F32:
        """Return this chip's columns of the tokens' embeddings, (B, D/C)."""
        return self.embedding_dtype.unpack_rows(self.embedding[tokens_B], self.dim_shard)

    @property
    def packed_bytes(self) -> int:
        """Bytes of the matmul weights as held."""
        return sum(tensor.data.nbytes for tensor in self.tensors.values())

    def schedule(self, n_layers: int) -> list[WeightId]:
        """Return the order in which a decode step takes the layers' weights."""
        return [WeightId(layer, name) for layer in range(n_layers) for name in LAYER_WEIGHTS]


def load_chip_weights(
    reader: TensorReader,
    sharding: Sharding,
    precision: Precision,
    progress: Callable[[int], None] = lambda layer: None,
) -> ChipWeights:
    """Read and pack one chip's weights.

    Parameters
    ----------
    reader : TensorReader
    sharding : Sharding
    precision : Precision
    progress : callable
        Called with each layer's number when it is done.
    """
    config = sharding.config
    dim, everything = sharding.col_part(config.dim), slice(None)

    def gain(name: str, layer: int) -> F32:
        values = reader.read(name, layer, slice(0, 1), dim).reshape(-1)
        return precision.embedding.round(values).copy()

    tensors: dict[WeightId, PackedTensor] = {}
    gains = {(-1, "norm"): gain("norm", -1)}
    for layer in range(config.n_layers):
        for name, parts in sharding.matrices().items():
            stored = np.concatenate([reader.read(n, layer, out, in_) for n, out, in_ in parts])
            values = np.ascontiguousarray(stored.T)
            tensors[WeightId(layer, name)] = PackedTensor.of(values, precision.weight(name))
        for name in ("attention_norm", "ffn_norm"):
            gains[layer, name] = gain(name, layer)
        progress(layer)
    embedding = precision.embedding.pack_rows(reader.read("embedding", -1, everything, dim))
    widest = max((tensor.n_values for tensor in tensors.values()), default=0)
    head = dict(_read_head(reader, sharding, precision, widest))
    return ChipWeights(
        tensors=tensors | head,
        head=list(head),
        gains=gains,
        embedding=embedding,
        embedding_dtype=precision.embedding,
        dim_shard=dim.stop - dim.start,
    )


def _read_head(
    reader: TensorReader, sharding: Sharding, precision: Precision, piece_values: int
) -> Iterator[tuple[WeightId, PackedTensor]]:
    """Yield the head in pieces no larger, unpacked, than the largest layer weight."""
    config = sharding.config
    name = "embedding" if config.tie_embeddings else "output"
    dim, vocab = sharding.col_part(config.dim), sharding.row_part(config.vocab_size)
    width = max(TILE, piece_values // (dim.stop - dim.start) // TILE * TILE)
    for number, start in enumerate(range(vocab.start, vocab.stop, width)):
        part = slice(start, min(start + width, vocab.stop))
        values = np.ascontiguousarray(reader.read(name, -1, part, dim).T)
        weight = WeightId(-1, f"lm_head.{number}")
        yield weight, PackedTensor.of(values, precision.weight("lm_head"))
    assert padded(width) == width
