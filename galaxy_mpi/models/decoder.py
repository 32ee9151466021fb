"""A decoder layer and the stack of them, once for all systems.

B users, D model dim, F feed-forward dim, N query heads, K kv heads, H head dim. *_shard_* is this
chip's piece; `galaxy_mpi.models.sharding` says which axis cuts what. No mesh, no communicator, no
dtype, no time: those live below.
"""

from galaxy_mpi.arrays import F32, Ints
from galaxy_mpi.kernels import RotaryTable
from galaxy_mpi.models.config import LlamaConfig
from galaxy_mpi.models.sharding import ChipWeights
from galaxy_mpi.prefetch import WeightId
from galaxy_mpi.systems.kv_cache import KVCache
from galaxy_mpi.systems.system import System

__all__ = ["DecoderLayer", "Transformer"]


class DecoderLayer:
    """One layer, in decode: norm, attention, norm, feed-forward, with residual."""

    def __init__(self, number: int, system: System, weights: ChipWeights, cache: KVCache) -> None:
        self._system, self.cache = system, cache
        self._wqkv, self._wo, self._w1, self._w3, self._w2 = (
            WeightId(number, name) for name in ("wqkv", "wo", "w1", "w3", "w2")
        )
        self._attention_norm = weights.gains[number, "attention_norm"]
        self._ffn_norm = weights.gains[number, "ffn_norm"]

    def decode(
        self,
        x_shard_BD: F32,
        residual_shard_BD: F32 | None,
        cos_sin: tuple[F32, F32],
        positions_B: Ints,
    ) -> tuple[F32, F32]:
        """Return (x, residual), each (B, D/C): their sum is the stream after this layer.

        Parameters
        ----------
        x_shard_BD, residual_shard_BD : ndarray of shape (B, D/C)
            Output of the last block, and what it is to be added to.
        cos_sin : tuple of ndarray
            Rotary table at this column's positions.
        positions_B : ndarray of shape (B/C,)
            Positions of this column's users, -1 for idle ones.
        """
        system = self._system
        h_shard_BD, residual_shard_BD = system.add_norm(
            x_shard_BD, residual_shard_BD, self._attention_norm
        )
        q_BNH, k_BKH, v_BKH = system.qkv_heads(h_shard_BD, self._wqkv)
        q_BNH, k_BKH = system.rotate(q_BNH, k_BKH, cos_sin)
        system.update_cache(self.cache, k_BKH, v_BKH, positions_B)
        attention_BNH = system.attention(q_BNH, self.cache, positions_B)
        x_shard_BD = system.attention_output(system.merge_heads(attention_BNH), self._wo)

        h_shard_BD, residual_shard_BD = system.add_norm(
            x_shard_BD, residual_shard_BD, self._ffn_norm
        )
        act_BF = system.gate_up(h_shard_BD, self._w1, self._w3)
        return system.down(act_BF, self._w2), residual_shard_BD


class Transformer:
    """All layers of a model on one chip, with their caches.

    Parameters
    ----------
    config : LlamaConfig
    system : System
    weights : ChipWeights
    rotary : RotaryTable
    caches : list of KVCache
        One a layer.
    """

    def __init__(
        self,
        config: LlamaConfig,
        system: System,
        weights: ChipWeights,
        rotary: RotaryTable,
        caches: list[KVCache],
    ) -> None:
        self._system, self._weights, self._rotary = system, weights, rotary
        self.layers = [
            DecoderLayer(number, system, weights, cache) for number, cache in enumerate(caches)
        ]
        assert len(self.layers) == config.n_layers

    def decode(self, tokens_B: Ints, positions_B: Ints, users: slice) -> F32:
        """Run one token of every user through all layers.

        Parameters
        ----------
        tokens_B, positions_B : ndarray of shape (B,)
            Of all users; position -1 marks an idle one.
        users : slice
            The users of this chip's column.

        Returns
        -------
        ndarray of shape (B, V/R)
            This row's slice of the logits.
        """
        system, mine_B = self._system, positions_B[users]
        cos_sin = self._rotary.at(mine_B)
        system.weights.begin_step()
        x_shard_BD, residual_shard_BD = self._weights.embed(tokens_B), None
        for layer in self.layers:
            x_shard_BD, residual_shard_BD = layer.decode(
                x_shard_BD, residual_shard_BD, cos_sin, mine_B
            )
        system.weights.end_step()
        h_shard_BD, _ = system.add_norm(
            x_shard_BD, residual_shard_BD, self._weights.gains[-1, "norm"]
        )
        return system.logits(h_shard_BD, self._weights.head)
