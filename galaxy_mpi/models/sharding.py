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

Row r's slice of wqkv is [its query heads | its key heads | its value heads]. What does not divide
is padded (`galaxy_mpi.models.layout`).
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from galaxy_mpi.arrays import F32, Ints
from galaxy_mpi.dtypes import TILE, DType, PackedTensor
from galaxy_mpi.models.layout import Layout
from galaxy_mpi.models.shard_cache import ShardFile, Shards
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
            ``wq`` ... ``w3``, ``bq``, ``bk``, ``bv``, ``q_norm``, ``k_norm``, ``attention_norm``,
            ``ffn_norm``, ``norm``, ``embedding``, ``output``.
        layer : int
            Layer number; ignored for tensors that belong to no layer.
        rows, cols : slice
            Of the stored matrix; a vector is read as one row.
        """

    def read_rows(self, name: str, rows: Ints, cols: slice) -> F32:
        """Return single rows of a matrix that belongs to no layer."""


_Runs = list[tuple[int, slice]]
"""Where each run of stored rows or columns goes: (first place, stored ones)."""


@dataclass(frozen=True)
class Sharding:
    """The parts of one chip, and how to read them: what a mesh pads is zeros.

    Parameters
    ----------
    layout : Layout
    rank : int
    """

    layout: Layout
    rank: int

    @property
    def row(self) -> int:
        """This chip's row."""
        return self.layout.mesh.coord(self.rank)[0]

    @property
    def col(self) -> int:
        """This chip's column."""
        return self.layout.mesh.coord(self.rank)[1]

    @property
    def heads(self) -> HeadLayout:
        """Heads of this chip."""
        layout = self.layout
        return HeadLayout(layout.n_heads, layout.slots_per_row, layout.config.head_dim)

    @property
    def n_valid_tokens(self) -> int:
        """How many tokens of this row's slice of the vocabulary exist."""
        return self.layout.n_valid_tokens(self.row)

    def read_weight(self, reader: "TensorReader", name: str, layer: int) -> F32:
        """Return this chip's part of a layer's matmul weight, (in, out)."""
        c, layout = self.layout.config, self.layout
        dim = _part(c.dim, layout.dim, self.col)
        hidden = _part(c.hidden_dim, layout.hidden, self.row)
        q_rows, kv_rows = self._q_rows(), self._kv_rows()

        def read(stored: str, out: _Runs, n_out: int, in_: _Runs, n_in: int) -> F32:
            return _read(reader, stored, layer, out, n_out, in_, n_in)

        if name == "wqkv":
            sizes = self._head_sizes()
            parts = (("wq", q_rows), ("wk", kv_rows), ("wv", kv_rows))
            stored = np.concatenate([read(n, runs, sizes[n], dim, layout.dim) for n, runs in parts])
        elif name == "wo":
            stored = read("wo", dim, layout.dim, q_rows, self._head_sizes()["wq"])
        elif name == "w2":
            stored = read("w2", dim, layout.dim, hidden, layout.hidden)
        else:
            stored = read(name, hidden, layout.hidden, dim, layout.dim)
        return np.ascontiguousarray(stored.T)

    def read_qkv_bias(self, reader: "TensorReader", layer: int) -> F32:
        """Return the bias of this row's heads, for one column to add: others get zeros."""
        sizes, one = self._head_sizes(), [(0, slice(0, 1))]
        q_rows, kv_rows = self._q_rows(), self._kv_rows()
        parts = (("wq", "bq", q_rows), ("wk", "bk", kv_rows), ("wv", "bv", kv_rows))
        bias: F32 = np.concatenate(
            [_read(reader, n, layer, one, 1, runs, sizes[of])[0] for of, n, runs in parts]
        )
        return bias if self.col == 0 else np.zeros_like(bias)

    def read_gain(self, reader: "TensorReader", name: str, layer: int) -> F32:
        """Return this column's part of a norm's gain, (D/C,)."""
        c, layout = self.layout.config, self.layout
        dim = _part(c.dim, layout.dim, self.col)
        gain: F32 = _read(reader, name, layer, [(0, slice(0, 1))], 1, dim, layout.dim)[0]
        return gain

    def read_embedding(self, reader: "TensorReader", tokens_B: Ints) -> F32:
        """Return this column's part of the tokens' embeddings, (B, D/C)."""
        width = self.layout.dim
        out = np.zeros((len(tokens_B), width), np.float32)
        for _, cols in _part(self.layout.config.dim, width, self.col):
            out[:, : cols.stop - cols.start] = reader.read_rows("embedding", tokens_B, cols)
        return out

    def read_tokens(self, reader: "TensorReader", name: str, first: int, n: int) -> F32:
        """Return this column's part of ``n`` tokens' rows from ``first``, zeros past the last."""
        c, layout = self.layout.config, self.layout
        n_known = max(0, min(n, c.vocab_size - first))
        rows: _Runs = [(0, slice(first, first + n_known))] if n_known else []
        dim = _part(c.dim, layout.dim, self.col)
        return _read(reader, name, -1, rows, n, dim, layout.dim)

    def _head_sizes(self) -> dict[str, int]:
        head_dim, layout = self.layout.config.head_dim, self.layout
        kv = layout.slots_per_row * head_dim
        return {"wq": layout.n_heads * head_dim, "wk": kv, "wv": kv}

    def _q_rows(self) -> _Runs:
        head_dim, width = self.layout.config.head_dim, self.layout.heads_per_slot
        return [
            (number * width * head_dim, _span(slot.heads[0], len(slot.heads), head_dim))
            for number, slot in enumerate(self.layout.row_slots(self.row))
            if slot.heads
        ]

    def _kv_rows(self) -> _Runs:
        head_dim = self.layout.config.head_dim
        return [
            (number * head_dim, _span(slot.kv_head, 1, head_dim))
            for number, slot in enumerate(self.layout.row_slots(self.row))
            if slot.kv_head is not None
        ]


def _span(first: int, n: int, width: int) -> slice:
    return slice(first * width, (first + n) * width)


def _part(size: int, width: int, index: int) -> _Runs:
    """Return part ``index`` of a dim that is cut in parts of ``width``."""
    start, stop = index * width, min((index + 1) * width, size)
    return [(0, slice(start, stop))] if start < stop else []


def _read(
    reader: "TensorReader",
    name: str,
    layer: int,
    rows: _Runs,
    n_rows: int,
    cols: _Runs,
    n_cols: int,
) -> F32:
    """Return a matrix of zeros with runs of a stored one in it."""
    if len(rows) == len(cols) == 1:
        (_, r), (_, c) = rows[0], cols[0]
        if (r.stop - r.start, c.stop - c.start) == (n_rows, n_cols):
            return reader.read(name, layer, r, c)
    out = np.zeros((n_rows, n_cols), np.float32)
    for to_row, r in rows:
        for to_col, c in cols:
            part = reader.read(name, layer, r, c)
            out[to_row : to_row + len(part), to_col : to_col + part.shape[1]] = part
    return out


@dataclass(frozen=True)
class ChipWeights:
    """All weights of one chip."""

    tensors: dict[WeightId, PackedTensor]
    """Matmul weights, packed."""
    head: list[WeightId]
    """Pieces of the language-model head, in the order of the vocabulary."""
    vectors: dict[tuple[int, str], F32]
    """What is no matrix, by (layer, name): gains of norms, (D/C,) each, the final one being (-1,
    "norm"); ``qkv_bias``; ``q_norm`` and ``k_norm``, (H,) each."""
    read_embedding: Callable[[Ints], F32]
    """Reads this column's part of tokens' embeddings, (B, D/C). They stay in the checkpoint's
    files, which all ranks of a host map: eight rows would hold the same."""
    embedding_dtype: DType
    embedding_bytes: int
    """What a chip holds."""

    def embed(self, tokens_B: Ints) -> F32:
        """Return this chip's columns of the tokens' embeddings, (B, D/C)."""
        return self.embedding_dtype.round(self.read_embedding(tokens_B))

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
    cache: ShardFile | None = None,
) -> ChipWeights:
    """Read and pack one chip's weights, or map what was packed before.

    Parameters
    ----------
    reader : TensorReader
    sharding : Sharding
    precision : Precision
    progress : callable
        Called with each layer's number when it is done.
    cache : ShardFile, optional
        Where packed weights are kept. One that cannot be written is left alone.
    """
    config, layout = sharding.layout.config, sharding.layout
    shards = None if cache is None else cache.read(precision)
    if shards is None:
        shards = _pack(reader, sharding, precision, progress)
        if cache is not None:
            with suppress(OSError):
                cache.write(shards)
    else:
        for layer in range(config.n_layers):
            progress(layer)
    return ChipWeights(
        tensors=shards.tensors,
        head=sorted(
            (weight for weight in shards.tensors if weight.name.startswith("lm_head")),
            key=lambda weight: int(weight.name.removeprefix("lm_head.")),
        ),
        vectors=shards.vectors,
        read_embedding=lambda tokens_B: sharding.read_embedding(reader, tokens_B),
        embedding_dtype=precision.embedding,
        embedding_bytes=config.vocab_size * precision.embedding.row_bytes(layout.dim),
    )


def _pack(
    reader: TensorReader,
    sharding: Sharding,
    precision: Precision,
    progress: Callable[[int], None],
) -> Shards:
    config = sharding.layout.config

    def rounded(values: F32) -> F32:
        return precision.embedding.round(values).copy()

    tensors: dict[WeightId, PackedTensor] = {}
    vectors = {(-1, "norm"): rounded(sharding.read_gain(reader, "norm", -1))}
    for layer in range(config.n_layers):
        for name in LAYER_WEIGHTS:
            values = sharding.read_weight(reader, name, layer)
            tensors[WeightId(layer, name)] = PackedTensor.of(values, precision.weight(name))
        for name in ("attention_norm", "ffn_norm"):
            vectors[layer, name] = rounded(sharding.read_gain(reader, name, layer))
        if config.qkv_bias:
            vectors[layer, "qkv_bias"] = rounded(sharding.read_qkv_bias(reader, layer))
        if config.qk_norm:
            whole = slice(0, 1), slice(0, config.head_dim)
            for name in ("q_norm", "k_norm"):
                vectors[layer, name] = rounded(reader.read(name, layer, *whole)[0])
        progress(layer)
    widest = max((tensor.n_values for tensor in tensors.values()), default=0)
    return Shards(tensors | dict(_read_head(reader, sharding, precision, widest)), vectors)


def _read_head(
    reader: TensorReader, sharding: Sharding, precision: Precision, piece_values: int
) -> Iterator[tuple[WeightId, PackedTensor]]:
    """Yield the head in pieces no larger, unpacked, than the largest layer weight."""
    layout = sharding.layout
    name = "embedding" if layout.config.tie_embeddings else "output"
    first, n_tokens = sharding.row * layout.vocab, layout.vocab
    width = max(TILE, piece_values // layout.dim // TILE * TILE)
    for number, start in enumerate(range(0, n_tokens, width)):
        n = min(width, n_tokens - start)
        values = sharding.read_tokens(reader, name, first + start, n)
        weight = WeightId(-1, f"lm_head.{number}")
        packed = PackedTensor.of(np.ascontiguousarray(values.T), precision.weight("lm_head"))
        yield weight, packed
