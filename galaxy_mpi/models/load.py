"""The weights of one chip: read, packed, and cached for the next run."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import NamedTuple

import numpy as np

from galaxy_mpi.arrays import F32, Bytes, Ints
from galaxy_mpi.dtypes import TILE, DType, PackedTensor
from galaxy_mpi.errors import CollectiveError
from galaxy_mpi.models.layout import Layout
from galaxy_mpi.models.shard_cache import Part, Parts, ShardFile, Shards
from galaxy_mpi.models.sharding import RowReader, Sharding, TensorReader
from galaxy_mpi.program import HEAD
from galaxy_mpi.systems.precision import Precision
from galaxy_mpi.weights import Vector, VectorId, Weight, WeightId

__all__ = ["ChipWeights", "PackedOnce", "load_chip_weights", "shard_parts"]

PackedOnce = dict[tuple[WeightId, DType], PackedTensor]
"""Packed weights of one chip, in every requested format."""


class ChipWeights(NamedTuple):
    """All weights of one chip."""

    tensors: dict[WeightId, PackedTensor]
    """Matmul weights, packed."""
    head: list[WeightId]
    """Pieces of the language-model head, in the order of the vocabulary."""
    vectors: dict[VectorId, F32]
    """Gains of norms, (D/C,) each, or (H,) of ``Q_NORM`` and ``K_NORM``; biases."""
    read_embedding: RowReader
    """Reads this column's shard of tokens' embeddings, (B, D/C). Embeddings stay in the
    checkpoint's files, which all ranks of a host map, because eight rows would hold the same
    values."""
    embedding_dtype: DType
    embedding_bytes: int
    """Contents of a chip."""

    def embed(self, tokens_B: Ints) -> F32:
        """Return this chip's columns of the tokens' embeddings, (B, D/C).

        Raises
        ------
        CollectiveError
            If a token is not in the vocabulary, as after a collective that was left out.
        """
        try:
            rows = self.read_embedding(tokens_B)
        except IndexError:
            raise CollectiveError(
                f"token {np.max(tokens_B)} is not in the vocabulary; did a chip leave out the "
                f"collective that brings the sampled tokens?"
            ) from None
        return self.embedding_dtype.round(rows)

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
    parts = shard_parts(sharding, precision)
    shards = None if cache is None else cache.read(parts)
    if shards is None:
        keep = {} if packed is None else packed
        if cache is not None:
            # Mapped, they take no memory that the host could not take back.
            with suppress(OSError):
                cache.write(parts, _data(_made(reader, sharding, precision, parts, progress)))
                shards = cache.read(parts)
        if shards is None:
            made = _made(reader, sharding, precision, parts, progress, keep)
            shards = Shards({}, {})
            for key, values in made:
                if isinstance(values, PackedTensor):
                    assert isinstance(key, WeightId)
                    shards.tensors[key] = values
                else:
                    assert isinstance(key, VectorId)
                    shards.vectors[key] = values
    else:
        for layer in range(config.n_layers):
            progress(layer)
    return ChipWeights(
        tensors=shards.tensors,
        head=sorted(
            (weight for weight in shards.tensors if weight.weight is Weight.LM_HEAD),
            key=lambda weight: weight.piece or 0,
        ),
        vectors=shards.vectors,
        read_embedding=sharding.embedding(reader),
        embedding_dtype=precision.embedding,
        embedding_bytes=config.vocab_size * precision.embedding.row_bytes(layout.stream),
    )


def shard_parts(sharding: Sharding, precision: Precision) -> Parts:
    """Return shapes and formats of one chip's weights, by layer and name."""
    layout, config = sharding.layout, sharding.layout.config
    shape = layout.chip_shape(users=1)
    matrices = {w: size for w, size in shape.matrices.items() if w is not Weight.LM_HEAD}
    vectors = {Vector.ATTENTION_NORM: layout.dim, Vector.FFN_NORM: layout.dim}
    if config.qkv_bias:
        vectors[Vector.QKV_BIAS] = shape.qkv
    if config.qk_norm:
        vectors |= {Vector.Q_NORM: config.head_dim, Vector.K_NORM: config.head_dim}
    final = VectorId(HEAD, Vector.FINAL_NORM)
    parts: Parts = {final: Part((layout.dim,), precision.embedding, is_vector=True)}
    for layer in range(config.n_layers):
        for weight, size in matrices.items():
            parts[WeightId(layer, weight)] = Part(size, precision.of(layer).weight(weight))
        for vector, width in vectors.items():
            part = Part((width,), precision.embedding, is_vector=True)
            parts[VectorId(layer, vector)] = part
    widest = max(n_in * n_out for n_in, n_out in matrices.values())
    dtype = precision.weight(Weight.LM_HEAD)
    for number, (_, n) in enumerate(_head_pieces(layout, widest)):
        parts[WeightId(HEAD, Weight.LM_HEAD, number)] = Part((layout.dim, n), dtype)
    return parts


def _head_pieces(layout: Layout, most_values: int) -> list[tuple[int, int]]:
    """Return first token and number of tokens of each piece of the head, limited in size."""
    width = max(TILE, most_values // layout.dim // TILE * TILE)
    return [(start, min(width, layout.vocab - start)) for start in range(0, layout.vocab, width)]


def _made(
    reader: TensorReader,
    sharding: Sharding,
    precision: Precision,
    parts: Parts,
    progress: Callable[[int], None],
    packed: PackedOnce | None = None,
) -> Iterator[tuple[WeightId | VectorId, PackedTensor | F32]]:
    """Yield all parts of a chip, packed one at a time; ``packed`` keeps matrices."""
    known = HEAD
    for key, part in parts.items():
        if key.layer != known and known >= 0:
            progress(known)
        known = key.layer
        if isinstance(key, VectorId):
            yield key, _read_vector(reader, sharding, precision, key)
            continue
        tensor = None if packed is None else packed.get((key, part.dtype))
        if tensor is None:
            values = _read_matrix(reader, sharding, parts, key)
            tensor = PackedTensor.of(values, part.dtype)
            if packed is not None:
                packed[key, part.dtype] = tensor
        yield key, tensor


def _data(
    made: Iterator[tuple[WeightId | VectorId, PackedTensor | F32]],
) -> Iterator[tuple[WeightId | VectorId, Bytes]]:
    """Yield the bytes of each part."""
    for key, values in made:
        data = values.data if isinstance(values, PackedTensor) else values.view(np.uint8)
        yield key, data


def _read_vector(
    reader: TensorReader, sharding: Sharding, precision: Precision, key: VectorId
) -> F32:
    layer, vector = key
    if vector is Vector.QKV_BIAS:
        values = sharding.read_qkv_bias(reader, layer)
    elif vector in (Vector.Q_NORM, Vector.K_NORM):
        whole = slice(0, 1), slice(0, sharding.layout.config.head_dim)
        values = reader.read(str(vector), layer, *whole)[0]
    else:
        values = sharding.read_gain(reader, vector, layer)
    return precision.embedding.round(values).copy()


def _read_matrix(reader: TensorReader, sharding: Sharding, parts: Parts, key: WeightId) -> F32:
    """Return a weight, or a piece of the head, (in, out)."""
    if key.piece is None:
        return sharding.read_weight(reader, key.weight, key.layer)
    layout = sharding.layout
    name = "embedding" if layout.config.tie_embeddings else "output"
    # All pieces but the last are as wide as the first.
    width = parts[key._replace(piece=0)].shape[1]
    first = sharding.row * layout.vocab + key.piece * width
    values = sharding.read_tokens(reader, name, first, parts[key].shape[1])
    return np.ascontiguousarray(values.T)
