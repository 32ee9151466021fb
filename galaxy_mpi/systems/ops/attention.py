"""Decode: attention of one new token of each user over its cached positions."""

from collections.abc import Iterator, Sequence
from typing import Any

from galaxy_mpi.arrays import F32
from galaxy_mpi.dtypes import TILE, padded
from galaxy_mpi.kernels import Fidelity
from galaxy_mpi.mesh import Axis
from galaxy_mpi.program import Charge, Cuts, Kernel, Spent, Tensor
from galaxy_mpi.systems.chip import ChipBinder
from galaxy_mpi.systems.decode_attention import AttentionStep
from galaxy_mpi.systems.ops.base import SystemOp

__all__ = ["Attention", "SlottedAttention"]

BATCH = 32
"""Users that a program of the Galaxy is made for, whether they are there or not."""


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
        """One op, in each column as long as its longest user takes; then a copy to other cores."""
        yield self._attend(costs, costs.machine.generic_cores, self.shape.users_each, self._chunk)
        elements = self.shape.users_each * 32 * self.shape.head_dim
        yield Kernel("reshard_attention", costs.copy_s(elements, self.shape.users_each), 0)

    @property
    def _chunk(self) -> int:
        """Tiles of positions at a time: 8, or 4 where sums are float32."""
        return 8 if self.precision.fidelity("sdpa", "decode") is Fidelity.LOFI else 4

    def _attend(self, costs: Any, cores: float, slots: int, most_tiles: int) -> Kernel:
        shape, tile_bytes = self.shape, self.precision.kv_cache.tile_bytes
        peak = self.peak(costs, "sdpa")

        def seconds(positions: Sequence[int]) -> list[float]:
            return [
                costs.attention_s(
                    shape.users_each,
                    shape.heads,
                    shape.kv_heads,
                    shape.head_dim,
                    int(position),
                    tile_bytes,
                    peak,
                    cores=int(cores),
                    slots=slots,
                    most_tiles=most_tiles,
                )
                if position >= 0
                else Spent(costs.machine.launch_s)
                for position in positions
            ]

        return Kernel(self.name, seconds, cores)

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


class SlottedAttention(Attention):
    """Galaxy: each of a column's places has its cores of the sub-device, used or not (op 6).

    Queries come in and results go out where the ops around have them.
    """

    def charges(self, costs: Any) -> Iterator[Charge]:
        """One op."""
        slots = max(self.shape.users_each, BATCH // self.site.size(Axis.ROW))
        yield self._attend(costs, costs.machine.attention_cores, slots, 8)
