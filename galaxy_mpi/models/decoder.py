"""A decoder layer and the stack of them, once for all systems.

B users, S rows of a prefill pass, D model dim, F feed-forward dim, N query heads, K kv heads, H
head dim. *_shard_* is this chip's piece; `galaxy_mpi.models.sharding` says which axis cuts what.
No mesh, no communicator, no dtype, no time: those live below, in the system that is handed in.
"""

from collections.abc import Callable

from galaxy_mpi.arrays import F32, Ints
from galaxy_mpi.kernels import RotaryTable
from galaxy_mpi.models.load import ChipWeights
from galaxy_mpi.prefetch import WeightId
from galaxy_mpi.systems.kv_cache import KVCache, PageTable
from galaxy_mpi.systems.precision import HEAD
from galaxy_mpi.systems.prefill_pass import PrefillPass
from galaxy_mpi.systems.prefill_system import PrefillSystem
from galaxy_mpi.systems.system import DecodeSystem

__all__ = ["DecoderLayer", "Transformer"]


class DecoderLayer:
    """One layer: norm, attention, norm, feed-forward, with residual."""

    def __init__(self, number: int, weights: ChipWeights, cache: KVCache) -> None:
        self.cache = cache
        self._number = number
        self._wqkv, self._wo, self._w1, self._w3, self._w2 = (
            WeightId(number, name) for name in ("wqkv", "wo", "w1", "w3", "w2")
        )
        self._attention_norm = weights.vectors[number, "attention_norm"]
        self._ffn_norm = weights.vectors[number, "ffn_norm"]
        self._qkv_bias = weights.vectors.get((number, "qkv_bias"))
        self._q_norm = weights.vectors.get((number, "q_norm"))
        self._k_norm = weights.vectors.get((number, "k_norm"))

    def decode(
        self,
        system: DecodeSystem,
        x_shard_BD: F32,
        residual_shard_BD: F32 | None,
        cos_sin: tuple[F32, F32],
        table: PageTable,
    ) -> tuple[F32, F32]:
        """Return (x, residual), each (B, D/C): their sum is the stream after this layer.

        Parameters
        ----------
        system : DecodeSystem
        x_shard_BD, residual_shard_BD : ndarray of shape (B, D/C)
            Output of the last block, and what it is to be added to.
        cos_sin : tuple of ndarray
            Rotary table at this column's positions.
        table : PageTable
            Where this column's users are.
        """
        system.begin_layer(self._number)
        h_shard_BD, residual_shard_BD = system.add_norm(
            x_shard_BD, residual_shard_BD, self._attention_norm
        )
        q_BNH, k_BKH, v_BKH = system.qkv_heads(h_shard_BD, self._wqkv, self._qkv_bias)
        if self._q_norm is not None and self._k_norm is not None:
            q_BNH, k_BKH = system.norm_heads(q_BNH, k_BKH, self._q_norm, self._k_norm)
        q_BNH, k_BKH = system.rotate(q_BNH, k_BKH, cos_sin)
        system.update_cache(self.cache, k_BKH, v_BKH, table)
        attention_BNH = system.attention(q_BNH, self.cache, table)
        x_shard_BD = system.attention_output(system.merge_heads(attention_BNH), self._wo)

        h_shard_BD, residual_shard_BD = system.add_norm(
            x_shard_BD, residual_shard_BD, self._ffn_norm
        )
        act_BF = system.gate_up(h_shard_BD, self._w1, self._w3)
        return system.down(act_BF, self._w2), residual_shard_BD

    def prefill(
        self,
        system: PrefillSystem,
        x_shard_SD: F32,
        cos_sin: tuple[F32, F32],
        work: PrefillPass,
    ) -> F32:
        """Return the stream after this layer, (S, D/C)."""
        system.begin_layer(self._number)
        h_shard_SD = system.normalised(x_shard_SD, self._attention_norm)
        q_SNH, k_SKH, v_SKH = system.qkv_heads(h_shard_SD, self._wqkv, self._qkv_bias, work)
        if self._q_norm is not None and self._k_norm is not None:
            q_SNH, k_SKH = system.norm_heads(q_SNH, k_SKH, self._q_norm, self._k_norm)
        q_SNH, k_SKH = system.rotate(q_SNH, k_SKH, cos_sin)
        k_SKH, v_SKH = system.fill_cache(self.cache, k_SKH, v_SKH, work)
        attention_SX = system.attention(q_SNH, k_SKH, v_SKH, self.cache, work)
        out_shard_SD = system.attention_output(attention_SX, self._wo, work)
        x_shard_SD = system.add(x_shard_SD, out_shard_SD)

        h_shard_SD = system.normalised(x_shard_SD, self._ffn_norm)
        act_shard_SF = system.gate_up(h_shard_SD, self._w1, self._w3, work)
        return system.add(x_shard_SD, system.down(act_shard_SF, self._w2, work))


class Transformer:
    """All layers of a model on one chip, with their caches.

    Parameters
    ----------
    weights : ChipWeights
    rotary : RotaryTable
    caches : list of KVCache
        One a layer.
    """

    def __init__(self, weights: ChipWeights, rotary: RotaryTable, caches: list[KVCache]) -> None:
        self._weights, self._rotary = weights, rotary
        self.layers = [DecoderLayer(number, weights, cache) for number, cache in enumerate(caches)]

    def decode(self, system: DecodeSystem, tokens_B: Ints, table: PageTable) -> F32:
        """Run one token of every user through all layers.

        Parameters
        ----------
        system : DecodeSystem
        tokens_B : ndarray of shape (B,)
            Of all users.
        table : PageTable
            Where the users of this chip's column are.

        Returns
        -------
        ndarray of shape (B, V/R)
            This row's slice of the logits.
        """
        cos_sin = self._rotary.at(table.positions_B)
        system.weights.begin_step()
        x_shard_BD, residual_shard_BD = self._weights.embed(tokens_B), None
        for layer in self.layers:
            x_shard_BD, residual_shard_BD = layer.decode(
                system, x_shard_BD, residual_shard_BD, cos_sin, table
            )
        system.weights.end_step()
        system.begin_layer(HEAD)
        h_shard_BD, _ = system.add_norm(
            x_shard_BD, residual_shard_BD, self._weights.vectors[-1, "norm"]
        )
        return system.logits(h_shard_BD, self._weights.head)

    def prefill(
        self,
        system: PrefillSystem,
        work: PrefillPass,
        after_layer: Callable[[int, F32], None] = lambda layer, x: None,
    ) -> F32:
        """Run the new tokens of a pass through all layers.

        Parameters
        ----------
        system : PrefillSystem
        work : PrefillPass
        after_layer : callable
            Called with each layer's number and the stream after it.

        Returns
        -------
        ndarray of shape (U, V/R)
            This row's slice of the logits of each user's last token, in the order of
            ``work.parts``.
        """
        tiles_SD = system.last_tiles(self._stream(system, work, after_layer), work)
        h_shard_SD = system.normalised(tiles_SD, self._weights.vectors[-1, "norm"])
        return system.logits(h_shard_SD, work, self._weights.head)

    def prefill_all(
        self,
        system: PrefillSystem,
        work: PrefillPass,
        after_layer: Callable[[int, F32], None] = lambda layer, x: None,
    ) -> F32:
        """As `prefill`, but return the logits of every row: (S, V/R)."""
        x_shard_SD = self._stream(system, work, after_layer)
        h_shard_SD = system.normalised(x_shard_SD, self._weights.vectors[-1, "norm"])
        return system.all_logits(h_shard_SD, work, self._weights.head)

    def _stream(
        self,
        system: PrefillSystem,
        work: PrefillPass,
        after_layer: Callable[[int, F32], None],
    ) -> F32:
        cos_sin = self._rotary.at(work.positions)
        x_shard_SD = system.embedded(self._weights.embed(work.tokens))
        for number, layer in enumerate(self.layers):
            x_shard_SD = layer.prefill(system, x_shard_SD, cos_sin, work)
            after_layer(number, x_shard_SD)
        system.begin_layer(HEAD)
        return x_shard_SD
