"""The weights of one chip: read, packed, and cached for the next run."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from galaxy_mpi.arrays import F32, Ints
from galaxy_mpi.dtypes import TILE, DType, PackedTensor
from galaxy_mpi.models.layout import Layout
from galaxy_mpi.models.shard_cache import Part, Parts, ShardFile, Shards
from galaxy_mpi.models.sharding import Sharding, TensorReader
from galaxy_mpi.prefetch import WeightId
from galaxy_mpi.systems.precision import Precision

__all__ = ["ChipWeights", "PackedOnce", "load_chip_weights", "shard_parts"]

PackedOnce = dict[tuple[WeightId, DType], PackedTensor]
"""Packed weights of one chip, in every requested format."""

LAYER_WEIGHTS = ("wqkv", "wo", "w1", "w3", "w2")
"""The matmul weights of a layer, in the order in which decode uses them."""


@dataclass(frozen=True)
class ChipWeights:
    """All weights of one chip."""

    tensors: dict[WeightId, PackedTensor]
    """Matmul weights, packed."""
    head: list[WeightId]
    """Pieces of the language-model head, in the order of the vocabulary."""
    vectors: dict[tuple[int, str], F32]
    """Non-matrix parameters, by (layer, name): gains of norms, (D/C,) each, the final one being
    (-1, "norm"); ``qkv_bias``; ``q_norm`` and ``k_norm``, (H,) each."""
    read_embedding: Callable[[Ints], F32]
    """Reads this column's shard of tokens' embeddings, (B, D/C). Embeddings stay in the
    checkpoint's files, which all ranks of a host map, because eight rows would hold the same
    values."""
    embedding_dtype: DType
    embedding_bytes: int
    """Contents of a chip."""

    def embed(self, tokens_B: Ints) -> F32:
        """Return this chip's columns of the tokens' embeddings, (B, D/C)."""
        return self.embedding_dtype.round(self.read_embedding(tokens_B))

    @property
    def packed_bytes(self) -> int:
        """Bytes of the packed matmul weights."""
        return sum(tensor.data.nbytes for tensor in self.tensors.values())


def load_chip_weights(
    reader: TensorReader,
    sharding: Sharding,
    precision: Precision,
    progress: Callable[[int], None] = lambda layer: None,
    cache: ShardFile | None = None,
    packed: PackedOnce | None = None,
) -> ChipWeights:
    """Read and pack one chip's weights, or map cached ones.

    Parameters
    ----------
    reader : TensorReader
    sharding : Sharding
    precision : Precision
    progress : callable
        Called with the number of each finished layer.
    cache : ShardFile, optional
        Cache of packed weights; ignored if it cannot be written.
    packed : dict, optional
        Already packed weights of this chip, for callers that load several precisions in turn.
        Weights found here are not read again, and others are added.
    """
    config, layout = sharding.layout.config, sharding.layout
    shards = None if cache is None else cache.read(shard_parts(sharding, precision))
    if shards is None:
        shards = _pack(reader, sharding, precision, progress, {} if packed is None else packed)
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
        embedding_bytes=config.vocab_size * precision.embedding.row_bytes(layout.stream),
    )


def shard_parts(sharding: Sharding, precision: Precision) -> Parts:
    """Return shapes and formats of one chip's weights, by layer and name."""
    layout, config = sharding.layout, sharding.layout.config
    heads = layout.n_heads * config.head_dim
    qkv = heads + 2 * layout.slots_per_row * config.head_dim
    shapes = {
        "wqkv": (layout.dim, qkv),
        "wo": (heads, layout.dim),
        "w1": (layout.dim, layout.hidden),
        "w3": (layout.dim, layout.hidden),
        "w2": (layout.hidden, layout.dim),
    }
    vectors = {"attention_norm": layout.dim, "ffn_norm": layout.dim}
    if config.qkv_bias:
        vectors["qkv_bias"] = qkv
    if config.qk_norm:
        vectors |= {"q_norm": config.head_dim, "k_norm": config.head_dim}
    parts: Parts = {(-1, "norm"): Part((layout.dim,), precision.embedding, is_vector=True)}
    for layer in range(config.n_layers):
        for name, shape in shapes.items():
            parts[layer, name] = Part(shape, precision.of(layer).weight(name))
        for name, width in vectors.items():
            parts[layer, name] = Part((width,), precision.embedding, is_vector=True)
    widest = max((n_in * n_out for n_in, n_out in shapes.values()), default=0)
    for number, (_, n) in enumerate(_head_pieces(layout, widest)):
        parts[-1, f"lm_head.{number}"] = Part((layout.dim, n), precision.weight("lm_head"))
    return parts


def _head_pieces(layout: Layout, most_values: int) -> list[tuple[int, int]]:
    """Return first token and number of tokens of each piece of the head, limited in size."""
    width = max(TILE, most_values // layout.dim // TILE * TILE)
    return [(start, min(width, layout.vocab - start)) for start in range(0, layout.vocab, width)]


def _pack(
    reader: TensorReader,
    sharding: Sharding,
    precision: Precision,
    progress: Callable[[int], None],
    packed: PackedOnce,
) -> Shards:
    config = sharding.layout.config

    def rounded(values: F32) -> F32:
        return precision.embedding.round(values).copy()

    tensors: dict[WeightId, PackedTensor] = {}
    vectors = {(-1, "norm"): rounded(sharding.read_gain(reader, "norm", -1))}
    for layer in range(config.n_layers):
        for name in LAYER_WEIGHTS:
            weight, dtype = WeightId(layer, name), precision.of(layer).weight(name)
            if (weight, dtype) not in packed:
                values = sharding.read_weight(reader, name, layer)
                packed[weight, dtype] = PackedTensor.of(values, dtype)
            tensors[weight] = packed[weight, dtype]
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
    return Shards(tensors | dict(_read_head(reader, sharding, precision, widest, packed)), vectors)


def _read_head(
    reader: TensorReader,
    sharding: Sharding,
    precision: Precision,
    piece_values: int,
    packed: PackedOnce,
) -> Iterator[tuple[WeightId, PackedTensor]]:
    """Yield the head in pieces that are no larger, unpacked, than the largest layer weight."""
    layout = sharding.layout
    name = "embedding" if layout.config.tie_embeddings else "output"
    first = sharding.row * layout.vocab
    for number, (start, n) in enumerate(_head_pieces(layout, piece_values)):
        weight, dtype = WeightId(-1, f"lm_head.{number}"), precision.weight("lm_head")
        if (weight, dtype) not in packed:
            values = sharding.read_tokens(reader, name, first + start, n)
            packed[weight, dtype] = PackedTensor.of(np.ascontiguousarray(values.T), dtype)
        yield weight, packed[weight, dtype]
