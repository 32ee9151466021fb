"""Decode: attention of one new token of each user over its cached positions."""

from collections.abc import Iterator, Sequence
from typing import Any

from galaxy_mpi.arrays import F32
from galaxy_mpi.dtypes import TILE, padded
from galaxy_mpi.program import Charge, Cuts, Kernel, Tensor
from galaxy_mpi.systems.chip import ChipBinder
from galaxy_mpi.systems.decode_attention import AttentionStep
from galaxy_mpi.systems.ops.base import SystemOp

__all__ = ["Attention"]


class Attention(SystemOp):
    """Paged attention over the cache (op 6)."""

    def __call__(self, q: Tensor) -> Tensor:
        """Return (B/C, N/R, H), not rounded yet: it is packed next."""
        (mixed,) = self.record(q.program, (q, q.program.layer), mixed=q.shape)
        return mixed

    def cuts(self) -> Cuts:
        """Return how its outputs are cut."""
        return {"mixed": self.heads_cut}

    def cached_bytes(self) -> int:
        """Return the bytes of a key and a value of each kv head, for each user of a column."""
        shape, tile_bytes = self.shape, self.precision.kv_cache.tile_bytes
        tiles = padded(shape.head_dim) // TILE
        return shape.users_each * shape.kv_heads * 2 * tile_bytes * tiles // TILE

    def charges(self, costs: Any) -> Iterator[Charge]:
        """One op, in each column as long as its longest user takes."""
        shape, tile_bytes = self.shape, self.precision.kv_cache.tile_bytes
        peak = self.peak(costs, "sdpa")

        def seconds(positions: Sequence[int]) -> list[float]:
            return [
                costs.attention_s(
                    shape.users_each,
                    shape.heads,
                    shape.kv_heads,
                    shape.head_dim,
                    max(int(position), 0),
                    tile_bytes,
                    peak,
                )
                for position in positions
            ]

        yield Kernel(self.name, seconds, costs.machine.worker_cores)

    def bind(self, chip: ChipBinder, q: F32, layer: int) -> F32:
        """Attend; users are grouped by the number of their cache blocks."""
        out = chip.array(*q.shape)
        step = AttentionStep(
            chip.state.caches[layer],
            chip.inputs,
            self.precision,
            self.site.modules.attention(layer, chip.state),
            chip.workspace,
        )
        chip.call(step.attend, q, out)
        return out
