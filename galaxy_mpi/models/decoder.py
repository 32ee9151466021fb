"""A decoder layer and the whole stack, for all systems.

The model runs once per program (`galaxy_mpi.program`), with tensors that have a shape but no
values, and every op that it calls records itself. Meshes, communicators, formats and times are not
here but in the ops of the given system.
"""

from collections.abc import Iterator

from galaxy_mpi.models.config import LlamaConfig
from galaxy_mpi.program import HEAD, Program, Tensor
from galaxy_mpi.systems.ops.sample import GatherLogits
from galaxy_mpi.systems.precision import Precision
from galaxy_mpi.systems.site import Site
from galaxy_mpi.systems.table import DecodeTable, OpsAt, PrefillTable, System
from galaxy_mpi.weights import Vector, Weight, WeightId

__all__ = ["Decoder", "decode_layer", "prefill_layer"]


def decode_layer(
    at: OpsAt, ops: DecodeTable, x: Tensor, residual: Tensor | None, cos: Tensor, sin: Tensor
) -> tuple[Tensor, Tensor]:
    """Return (x, residual), whose sum is the residual stream after this layer."""
    h, residual = at(ops.add_norm, Vector.ATTENTION_NORM)(x, residual)
    q, k, v = at(ops.qkv_heads)(h)
    if at.site.shape.has_qk_norm:
        q, k = at(ops.norm_heads)(q, k)
    q, k = at(ops.rotate)(q, k, cos, sin)
    at(ops.update_cache)(k, v)
    mixed = at(ops.merge_heads)(at(ops.attention)(q))
    x = at(ops.output, Weight.WO)(mixed)

    h, residual = at(ops.add_norm, Vector.FFN_NORM)(x, residual)
    act = at(ops.gate_up)(h)
    return at(ops.down, Weight.W2)(act), residual


def prefill_layer(at: OpsAt, ops: PrefillTable, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Return the stream after this layer."""
    h = at(ops.norm, Vector.ATTENTION_NORM)(x)
    q, k, v = at(ops.qkv_heads)(h)
    if at.site.shape.has_qk_norm:
        q, k = at(ops.norm_heads)(q, k)
    q, k = at(ops.rotate)(q, k, cos, sin)
    k, v = at(ops.fill_cache)(k, v)
    mixed = at(ops.attention)(q, k, v)
    x = at(ops.add, Weight.WO)(x, at(ops.output, Weight.WO)(mixed))

    h = at(ops.norm, Vector.FFN_NORM)(x)
    act = at(ops.gate_up)(h)
    return at(ops.add, Weight.W2)(x, at(ops.down, Weight.W2)(act))


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
        head: tuple[WeightId, ...] = (WeightId(HEAD, Weight.LM_HEAD),),
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
        ops = self._system.decode
        for at in self._sites(program):
            x, residual = decode_layer(at, ops, x, residual, cos, sin)
        at = OpsAt(self._site)
        h, _ = at(ops.add_norm, Vector.FINAL_NORM)(x, residual)
        self._end(at, ops, at(ops.logits)(h, self._head), all_logits=all_logits)
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
        ops = self._system.prefill
        for at in self._sites(program, first):
            x = prefill_layer(at, ops, x, cos, sin)
        at = OpsAt(self._site)
        if all_rows:
            h = at(ops.norm, Vector.FINAL_NORM, all_rows=True)(x)
            program.results["row_logits"] = at(ops.all_logits)(h, self._head)
            return program
        h = at(ops.norm, Vector.FINAL_NORM)(at(ops.last_tiles)(x))
        self._end(at, ops, at(ops.logits)(h, self._head), all_logits=all_logits)
        return program

    def _sites(self, program: Program, first: int = 0) -> Iterator[OpsAt]:
        """Yield what makes the ops of each layer; layers of equal precision share them."""
        of_precision: dict[Precision, OpsAt] = {}
        for layer in program.layers(self._model.n_layers, first):
            precision = self._site.precision.of(layer)
            if precision not in of_precision:
                of_precision[precision] = OpsAt(self._site.of(precision))
            yield of_precision[precision]

    def _end(
        self, at: OpsAt, ops: DecodeTable | PrefillTable, logits: Tensor, *, all_logits: bool
    ) -> None:
        results = logits.program.results
        if all_logits:
            results["logits"] = at(GatherLogits)(logits)
            return
        results["values"], results["tokens"] = at(ops.sample)(logits)
