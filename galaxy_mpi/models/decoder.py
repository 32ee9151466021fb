"""A decoder layer and the whole stack, for all systems.

The model runs once per program (`galaxy_mpi.program`), with tensors that have a shape but no
values, and every op that it calls records itself. Meshes, communicators, formats and times are not
here but in the ops of the given system.
"""

from galaxy_mpi.models.config import LlamaConfig
from galaxy_mpi.prefetch import WeightId
from galaxy_mpi.program import HEAD, Program, Tensor
from galaxy_mpi.systems.chip import VectorId
from galaxy_mpi.systems.ops.sample import GatherLogits
from galaxy_mpi.systems.precision import Precision
from galaxy_mpi.systems.site import Site
from galaxy_mpi.systems.table import DecodeOps, PrefillOps, System

__all__ = ["Decoder", "decode_layer", "prefill_layer"]


def decode_layer(
    ops: DecodeOps,
    layer: int,
    model: LlamaConfig,
    x: Tensor,
    residual: Tensor | None,
    cos: Tensor,
    sin: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return (x, residual), whose sum is the residual stream after this layer."""
    h, residual = ops.attention_norm(x, residual, VectorId(layer, "attention_norm"))
    bias = VectorId(layer, "qkv_bias") if model.qkv_bias else None
    q, k, v = ops.qkv_heads(h, WeightId(layer, "wqkv"), bias)
    if model.qk_norm:
        q, k = ops.norm_heads(q, k, VectorId(layer, "q_norm"), VectorId(layer, "k_norm"))
    q, k = ops.rotate(q, k, cos, sin)
    ops.update_cache(k, v)
    mixed = ops.merge_heads(ops.attention(q))
    x = ops.output(mixed, WeightId(layer, "wo"))

    h, residual = ops.ffn_norm(x, residual, VectorId(layer, "ffn_norm"))
    act = ops.gate_up(h, WeightId(layer, "w1"), WeightId(layer, "w3"))
    return ops.down(act, WeightId(layer, "w2")), residual


def prefill_layer(
    ops: PrefillOps, layer: int, model: LlamaConfig, x: Tensor, cos: Tensor, sin: Tensor
) -> Tensor:
    """Return the stream after this layer."""
    h = ops.attention_norm(x, VectorId(layer, "attention_norm"))
    bias = VectorId(layer, "qkv_bias") if model.qkv_bias else None
    q, k, v = ops.qkv_heads(h, WeightId(layer, "wqkv"), bias)
    if model.qk_norm:
        q, k = ops.norm_heads(q, k, VectorId(layer, "q_norm"), VectorId(layer, "k_norm"))
    q, k = ops.rotate(q, k, cos, sin)
    k, v = ops.fill_cache(k, v)
    mixed = ops.attention(q, k, v)
    x = ops.attention_add(x, ops.output(mixed, WeightId(layer, "wo")))

    h = ops.ffn_norm(x, VectorId(layer, "ffn_norm"))
    act = ops.gate_up(h, WeightId(layer, "w1"), WeightId(layer, "w3"))
    return ops.ffn_add(x, ops.down(act, WeightId(layer, "w2")))


class Decoder:
    """All layers of a model, with the ops of a system.

    Parameters
    ----------
    model : LlamaConfig
    system : System
    site : Site
        Site of the head; a layer has its own formats (`Precision.of`).
    head : tuple of WeightId
        Pieces of the language-model head.
    """

    def __init__(
        self,
        model: LlamaConfig,
        system: System,
        site: Site,
        head: tuple[WeightId, ...] = (WeightId(HEAD, "lm_head"),),
    ) -> None:
        self._model, self._system, self._site, self._head = model, system, site, head

    def decode(self, *, all_logits: bool = False) -> Program:
        """Return the program of a decode step.

        Inputs: ``x`` (B, D/C), the embeddings; ``cos`` and ``sin`` (B/C, 1, 2, H/2), see
        `galaxy_mpi.systems.ops.rotate`. Results: ``values`` and ``tokens`` (R, B, k) of the
        candidates, or ``logits`` (R, B, V/R).
        """
        program, shape = Program(), self._site.shape
        x: Tensor = program.input("x", shape.users, shape.stream)
        residual: Tensor | None = None
        rotary = (shape.users_each, 1, 2, shape.head_dim // 2)
        cos, sin = program.input("cos", *rotary), program.input("sin", *rotary)
        ops_of: dict[Precision, DecodeOps] = {}
        for layer in program.layers(self._model.n_layers):
            precision = self._site.precision.of(layer)
            if precision not in ops_of:
                ops_of[precision] = self._system.decode.at(self._site.of(precision))
            ops = ops_of[precision]
            x, residual = decode_layer(ops, layer, self._model, x, residual, cos, sin)
        head = self._system.decode.at(self._site)
        h, _ = head.final_norm(x, residual, VectorId(HEAD, "norm"))
        self._end(program, head, head.logits(h, self._head), all_logits=all_logits)
        return program

    def prefill(
        self, *, all_logits: bool = False, all_rows: bool = False, first: int = 0
    ) -> Program:
        """Return the program of a prefill pass; inputs and results as in `decode`.

        Parameters
        ----------
        all_logits : bool
            Whether to return logits of the whole vocabulary instead of candidates.
        all_rows : bool
            Whether to return logits of every row; ``row_logits`` (S, V/R) is this mesh row's shard.
        first : int
            First layer to run; the input ``x`` is the residual stream before that layer.
        """
        program, shape, work = Program("prefill"), self._site.shape, self._site.work
        assert work is not None
        x = program.input("x", work.n_rows, shape.stream)
        rotary = (work.n_rows, 1, 2, shape.head_dim // 2)
        cos, sin = program.input("cos", *rotary), program.input("sin", *rotary)
        ops_of: dict[Precision, PrefillOps] = {}
        for layer in program.layers(self._model.n_layers, first):
            precision = self._site.precision.of(layer)
            if precision not in ops_of:
                ops_of[precision] = self._system.prefill.at(self._site.of(precision))
            ops = ops_of[precision]
            x = prefill_layer(ops, layer, self._model, x, cos, sin)
        head = self._system.prefill.at(self._site)
        if all_rows:
            h = head.all_norm(x, VectorId(HEAD, "norm"))
            program.results["row_logits"] = head.all_logits(h, self._head)
            return program
        h = head.final_norm(head.last_tiles(x), VectorId(HEAD, "norm"))
        self._end(program, head, head.logits(h, self._head), all_logits=all_logits)
        return program

    def _end(
        self,
        program: Program,
        head: DecodeOps | PrefillOps,
        logits: Tensor,
        *,
        all_logits: bool,
    ) -> None:
        if all_logits:
            whole = GatherLogits(self._site, "gather_logits")(logits)
            program.results["logits"] = whole
            return
        values, tokens = head.sample(logits)
        program.results |= {"values": values, "tokens": tokens}
