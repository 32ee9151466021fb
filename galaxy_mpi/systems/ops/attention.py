"""Decode: attention of one new token of each user over its cached positions."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from galaxy_mpi.arrays import F32
from galaxy_mpi.dtypes import TILE, padded
from galaxy_mpi.kernels import Fidelity
from galaxy_mpi.mesh import Axis
from galaxy_mpi.program import Charge, Cuts, Kernel, Spent, Tensor
from galaxy_mpi.systems.chip import ChipBinder
from galaxy_mpi.systems.decode_attention import AttentionStep, LayersAttention
from galaxy_mpi.systems.ops.base import SystemOp

if TYPE_CHECKING:
    from galaxy_mpi.timing.costs import Costs

__all__ = ["Attention", "SlottedAttention"]

BATCH = 32
"""Users that a program of the Galaxy is made for, present or not."""


class Attention(SystemOp):
    """Paged attention over the cache (op 6)."""

    name = "attention"

    def __call__(self, q: Tensor) -> Tensor:
        """Return (B/C, N/R, H), not yet rounded, because it is packed next."""
        (mixed,) = self.record(q.program, (q, q.program.layer), mixed=q.shape)
        return mixed

    def cuts(self) -> Cuts:
        """Return the sharding of its outputs."""
        return {"mixed": self.heads_cut}

    def cached_bytes(self) -> int:
        """Return the bytes of a key and a value of each kv head, per user of a column."""
        shape, tile_bytes = self.shape, self.precision.kv_cache.tile_bytes
        tiles = padded(shape.head_dim) // TILE
        return shape.users_each * shape.kv_heads * 2 * tile_bytes * tiles // TILE

    def charges(self, costs: "Costs") -> Iterator[Charge]:
        """One op, per column as long as its longest user; then a copy to other cores."""
        yield self._attend(costs, costs.machine.generic_cores, self.shape.users_each, self._chunk)
        elements = self.shape.users_each * 32 * self.shape.head_dim
        yield Kernel("reshard_attention", costs.copy_s(elements, self.shape.users_each), 0)

    @property
    def _chunk(self) -> int:
        """Tiles of positions per chunk: 8, or 4 if sums are float32."""
        return 8 if self.precision.attention_fidelity("decode") is Fidelity.LOFI else 4

    def _passes(self, costs: "Costs") -> float:
        """Return the passes over a tile of scores."""
        return costs.machine.generic_attention_passes

    def _attend(self, costs: "Costs", cores: float, slots: int, most_tiles: int) -> Kernel:
        shape, tile_bytes = self.shape, self.precision.kv_cache.tile_bytes
        peak, passes = self.attention_peak(costs), self._passes(costs)

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
                    passes=passes,
                )
                if position >= 0
                else Spent(costs.machine.launch_s)
                for position in positions
            ]

        return Kernel(self.name, seconds, cores)

    def bind(self, chip: ChipBinder, q: F32, layer: int) -> F32:
        """Attend; users are grouped by number of cache blocks."""
        out = chip.array(*q.shape)
        cache = chip.state.caches[layer]
        layers = LayersAttention(
            cache,
            chip.inputs,
            self.precision,
            self.site.modules.attention(layer, chip.state),
            chip.workspace,
            q,
            out,
        )
        chip.call(AttentionStep(cache, layers).attend)
        return out


class SlottedAttention(Attention):
    """Galaxy: each user slot of a column has its own cores, used or not (op 6).

    Queries and results stay where the neighbouring ops have them, without copies.
    """

    def charges(self, costs: "Costs") -> Iterator[Charge]:
        """One op."""
        slots = max(self.shape.users_each, BATCH // self.site.size(Axis.ROW))
        yield self._attend(costs, costs.machine.attention_cores, slots, 8)

    def _passes(self, costs: "Costs") -> float:
        return costs.machine.softmax_passes
