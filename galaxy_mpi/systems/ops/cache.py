"""Decode: write new keys and values to the cache."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from galaxy_mpi.arrays import F32
from galaxy_mpi.program import Charge, Kernel, Tensor
from galaxy_mpi.systems.chip import ChipBinder
from galaxy_mpi.systems.kv_cache import CacheWriter
from galaxy_mpi.systems.ops.base import SystemOp

if TYPE_CHECKING:
    from galaxy_mpi.timing.costs import Costs

__all__ = ["FusedUpdateCache", "UpdateCache"]


class UpdateCache(SystemOp):
    """Generic: one op for k and one for v. A user at position -1 is skipped."""

    name = "update_cache"

    def __call__(self, k: Tensor, v: Tensor) -> None:
        """Write k and v, (B/C, K/R, H), at each active user's position."""
        self.record(k.program, (k, v, k.program.layer))

    def charges(self, costs: "Costs") -> Iterator[Charge]:
        """Two ops, each with one core per user."""
        for name in ("update_cache_k", "update_cache_v"):
            yield Kernel(name, costs.update_cache_s(self.shape.kv_heads), self.shape.users_each)

    def bind(self, chip: ChipBinder, k: F32, v: F32, layer: int) -> tuple[()]:
        """Pack and write both in one call; the bits are the same."""
        cache = chip.state.caches[layer]
        both = chip.array(len(k), k.shape[1], 2, k.shape[2])
        writer = CacheWriter(cache, both, chip.inputs)
        chip.call(writer.write, k, v)
        return ()


class FusedUpdateCache(UpdateCache):
    """Galaxy: k and v in one op (op 5)."""

    def charges(self, costs: "Costs") -> Iterator[Charge]:
        """One op, with one core per user."""
        yield Kernel(
            "update_cache", costs.update_cache_s(self.shape.kv_heads), self.shape.users_each
        )
