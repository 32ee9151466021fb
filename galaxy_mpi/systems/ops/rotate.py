"""Decode and prefill: rotary position embedding of q and k."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from galaxy_mpi.arrays import F32
from galaxy_mpi.program import Charge, Cuts, Kernel, Tensor
from galaxy_mpi.systems.chip import ChipBinder
from galaxy_mpi.systems.ops.base import SystemOp

if TYPE_CHECKING:
    from galaxy_mpi.timing.costs import Costs

__all__ = ["FusedRotate", "Rotate"]


def rotate_into(chip: ChipBinder, x: F32, cos: F32, sin: F32, out: F32) -> None:
    """Bind the rotation of the pairs of every head; the values of a pair are H/2 apart.

    ``cos`` and ``sin`` have the shape (B, 1, 2, H/2), the first half of ``sin`` negated: then
    x1 cos - x2 sin and x2 cos + x1 sin are one product, one product of swapped halves, and one sum.
    """
    half = x.shape[-1] // 2
    pairs, rotated = (t.reshape(*t.shape[:-1], 2, half) for t in (x, out))
    crossed = chip.array(*x.shape).reshape(pairs.shape)
    chip.call(np.multiply, pairs, cos, rotated)
    chip.call(np.multiply, pairs[..., ::-1, :], sin, crossed)
    chip.call(np.add, rotated, crossed, rotated)


class Rotate(SystemOp):
    """Generic: one op for q and one for k."""

    name = "rotary"

    def __call__(self, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        """Return q and k after rotary embedding."""
        q_out, k_out = self.record(q.program, (q, k, cos, sin), q=q.shape, k=k.shape)
        return q_out, k_out

    def cuts(self) -> Cuts:
        """Return the sharding of its outputs."""
        return dict.fromkeys(("q", "k"), self.heads_cut)

    def charges(self, costs: "Costs") -> Iterator[Charge]:
        """Two ops; in decode each head of a user occupies a row of tiles."""
        shape, machine, work = self.shape, costs.machine, self.site.work
        if work is not None:
            for heads in (shape.heads, shape.kv_heads):
                elements = self.device_rows * heads * shape.head_dim
                seconds = costs.streamed_s(elements, 2, 4 * elements)
                yield Kernel("rotary", seconds, machine.prefill_cores)
            return
        elements = shape.users_each * 32 * shape.head_dim
        for name in ("rotary_q", "rotary_k"):
            yield self.elementwise(costs, name, elements, machine.worker_cores, 1)

    def bind(self, chip: ChipBinder, q: F32, k: F32, cos: F32, sin: F32) -> tuple[F32, F32]:
        """Rotate both; as one array if they are adjacent."""
        n_heads, both = q.shape[1], _joined(q, k)
        if both is not None:
            out = chip.array(*both.shape)
            rotate_into(chip, both, cos, sin, out)
            chip.round(self.formats.rotary, out)
            return out[:, :n_heads], out[:, n_heads:]
        q_out, k_out = chip.array(*q.shape), chip.array(*k.shape)
        for x, to in ((q, q_out), (k, k_out)):
            rotate_into(chip, x, cos, sin, to)
            chip.round(self.formats.rotary, to)
        return q_out, k_out


class FusedRotate(Rotate):
    """Galaxy: q and k in one op of decode (op 4)."""

    def charges(self, costs: "Costs") -> Iterator[Charge]:
        """One op in decode."""
        if self.site.work is not None:
            yield from super().charges(costs)
            return
        elements = 2 * self.shape.users_each * 32 * self.shape.head_dim
        yield self.elementwise(costs, "rotary", elements, costs.machine.worker_cores, 1)


def _joined(q: F32, k: F32) -> F32 | None:
    """Return q and k as one view, (B, N + K, H), if k's heads follow q's in memory."""
    base = q.base
    if base is None or base is not k.base or q.strides != k.strides:
        return None
    begin, behind = (t.__array_interface__["data"][0] for t in (q, k))
    if behind - begin != q.shape[1] * q.strides[1]:
        return None
    shape = (q.shape[0], q.shape[1] + k.shape[1], q.shape[2])
    return np.lib.stride_tricks.as_strided(q, shape, q.strides)
