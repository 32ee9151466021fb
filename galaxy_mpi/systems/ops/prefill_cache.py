"""Prefill: write keys and values to the cache, on the column of each user."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from galaxy_mpi.arrays import F32
from galaxy_mpi.program import Charge, Cuts, Tensor
from galaxy_mpi.systems.chip import ChipBinder, StepInputs
from galaxy_mpi.systems.kv_cache import KVCache
from galaxy_mpi.systems.ops.prefill_base import PrefillOp

if TYPE_CHECKING:
    from galaxy_mpi.timing.costs import Costs

__all__ = ["FillCache"]


class FillCache(PrefillOp):
    """Two casts and two writes."""

    name = "fill_cache"

    def __call__(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write k and v, (S, K/R, H), of this column's users.

        Return both in the format of the cache.
        """
        k_out, v_out = self.record(k.program, (k, v, k.program.layer), k=k.shape, v=v.shape)
        return k_out, v_out

    def cuts(self) -> Cuts:
        """Return the sharding of its outputs."""
        return dict.fromkeys(("k", "v"), self.heads_cut)

    def charges(self, costs: "Costs") -> Iterator[Charge]:
        """Four ops."""
        elements = 2 * self.device_rows * self.shape.kv_heads * self.shape.head_dim
        yield from self.vector(costs, "fill_cache", elements, passes=2, n_ops=4)

    def bind(self, chip: ChipBinder, k: F32, v: F32, layer: int) -> tuple[F32, F32]:
        """Round into new arrays; write those of this column."""
        outputs = []
        for values in (k, v):
            out = chip.array(*values.shape)
            chip.call(np.copyto, out, values)
            chip.round(self.precision.kv_cache, out)
            outputs.append(out)
        k_out, v_out = outputs
        cache, parts = chip.state.caches[layer], self.work.parts
        for user, column in enumerate(self.work.columns):
            if column == chip.col:
                rows = parts[user]
                chip.call(_fill, cache, chip.inputs, user, k_out[rows], v_out[rows])
        return k_out, v_out


def _fill(cache: KVCache, inputs: StepInputs, user: int, k: F32, v: F32) -> None:
    who = inputs.pass_now.users[user]
    n_tokens = len(who.tokens)
    cache.fill(k[:n_tokens], v[:n_tokens], who.blocks, start=who.start)
