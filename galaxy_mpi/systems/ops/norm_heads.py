"""Decode and prefill: Qwen3's norms of every head of q and k."""

from collections.abc import Iterator
from typing import Any

from galaxy_mpi.arrays import F32
from galaxy_mpi.kernels import rms_norm_heads
from galaxy_mpi.program import Charge, Cuts, Tensor
from galaxy_mpi.systems.chip import ChipBinder, VectorId
from galaxy_mpi.systems.ops.base import SystemOp

__all__ = ["NormHeads"]


class NormHeads(SystemOp):
    """Two ops, one for q and one for k (op 3b of the layer)."""

    def __call__(
        self, q: Tensor, k: Tensor, q_gain: VectorId, k_gain: VectorId
    ) -> tuple[Tensor, Tensor]:
        """Return q and k with every head normalised."""
        q_out, k_out = self.record(q.program, (q, k, q_gain, k_gain), q=q.shape, k=k.shape)
        return q_out, k_out

    def cuts(self) -> Cuts:
        """Return how its outputs are cut."""
        return dict.fromkeys(("q", "k"), self.heads_cut)

    def charges(self, costs: Any) -> Iterator[Charge]:
        """In decode each head of a user is in a row of tiles of its own."""
        shape, machine, work = self.shape, costs.machine, self.site.work
        for heads in (shape.heads, shape.kv_heads):
            if work is None:
                elements, cores = shape.users_each * 32 * shape.head_dim, machine.worker_cores
            else:
                elements, cores = self.device_rows * heads * shape.head_dim, machine.prefill_cores
            yield self.elementwise(costs, "norm_heads", elements, cores, 4)

    def bind(
        self, chip: ChipBinder, q: F32, k: F32, q_gain: VectorId, k_gain: VectorId
    ) -> tuple[F32, F32]:
        """Normalise each by itself."""
        outputs = []
        for heads, gain in ((q, q_gain), (k, k_gain)):
            out = chip.array(*heads.shape)
            chip.call(rms_norm_heads, heads, chip.vector(gain), self.shape.norm_eps, out)
            chip.round(self.formats.head_norm, out)
            outputs.append(out)
        return outputs[0], outputs[1]
