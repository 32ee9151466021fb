"""Decode and prefill: Qwen3's per-head norms of q and k."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from galaxy_mpi.arrays import F32
from galaxy_mpi.kernels import rms_norm_heads
from galaxy_mpi.program import Charge, Cuts, Kernel, Tensor
from galaxy_mpi.systems.chip import ChipBinder
from galaxy_mpi.systems.ops.base import SystemOp
from galaxy_mpi.weights import Vector, VectorId

if TYPE_CHECKING:
    from galaxy_mpi.timing.costs import Costs

__all__ = ["NormHeads", "SlottedNormHeads"]


class NormHeads(SystemOp):
    """Three ops for q and three for k in decode, one each in prefill (op 3b of the layer).

    References
    ----------
    .. [1] tt-metal, tt_transformers/tt/attention.py, ``norm_reshard``.
    """

    name = "norm_heads"

    def __call__(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Return q and k with every head normalised."""
        gains = (VectorId(q.program.layer, gain) for gain in (Vector.Q_NORM, Vector.K_NORM))
        q_out, k_out = self.record(q.program, (q, k, *gains), q=q.shape, k=k.shape)
        return q_out, k_out

    def cuts(self) -> Cuts:
        """Return the sharding of its outputs."""
        return dict.fromkeys(("q", "k"), self.heads_cut)

    def charges(self, costs: "Costs") -> Iterator[Charge]:
        """In decode the heads of a user are one row of tiles, on one core; three ops each."""
        shape, machine, work = self.shape, costs.machine, self.site.work
        for heads in (shape.heads, shape.kv_heads):
            if work is None:
                elements = shape.users_each * 32 * shape.head_dim
                cores = min(machine.worker_cores, shape.users_each)
                yield self.elementwise(costs, "reshard_norm_heads", elements, cores, 1)
                yield self.elementwise(costs, "norm_heads", elements, cores, 4)
                yield self.elementwise(costs, "reshard_norm_heads", elements, cores, 1)
            else:
                elements = self.device_rows * heads * shape.head_dim
                seconds = costs.streamed_s(elements, 4, 4 * elements)
                yield Kernel("norm_heads", seconds, machine.prefill_cores)

    def bind(
        self, chip: ChipBinder, q: F32, k: F32, q_gain: VectorId, k_gain: VectorId
    ) -> tuple[F32, F32]:
        """Normalise each head separately."""
        outputs = []
        for heads, gain in ((q, q_gain), (k, k_gain)):
            out = chip.array(*heads.shape)
            chip.call(rms_norm_heads, heads, chip.vector(gain), self.shape.norm_eps, out)
            chip.round(self.formats.head_norm, out)
            outputs.append(out)
        return outputs[0], outputs[1]


class SlottedNormHeads(NormHeads):
    """Galaxy: seven ops each, because heads arrive as rows, not tiles.

    Move to one core, tilize, move to four cores, norm, move to one core, untilize, move back. Keys
    use as many rows as queries.

    References
    ----------
    .. [1] tt-metal, llama3_70b_galaxy/tt/llama_attention.py, ``_apply_decode_qk_norm_sharded``.
    """

    def charges(self, costs: "Costs") -> Iterator[Charge]:
        """Fourteen ops in decode; in prefill as `NormHeads`."""
        if self.site.work is not None:
            yield from super().charges(costs)
            return
        shape = self.shape
        elements = shape.users_each * max(8, shape.heads) * shape.head_dim
        for _ in ("q", "k"):
            for name, cores, passes in (
                ("reshard_norm_heads", 1, 1),
                ("tilize_norm_heads", 1, 1),
                ("reshard_norm_heads", 4, 1),
                ("norm_heads", 4, 4),
                ("reshard_norm_heads", 1, 1),
                ("untilize_norm_heads", 1, 1),
                ("reshard_norm_heads", shape.users_each, 1),
            ):
                yield self.elementwise(costs, name, elements, cores, passes)
