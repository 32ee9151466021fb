"""Prefill and decode as modes of a chip: what lives only as long as one of them.

Entering a mode makes its system, its collectives (buffers are bound when first used, indices begin
at 0) and its weight source; leaving it releases them. Weights, caches and the batch stay.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from galaxy_mpi.arrays import F32, Ints
from galaxy_mpi.ccl import CCL, Line, Stamper
from galaxy_mpi.config import RunConfig
from galaxy_mpi.engine.chip import Chip
from galaxy_mpi.engine.tracing import HostSpans
from galaxy_mpi.prefetch import (
    DirectWeights,
    PrefetchStats,
    WeightId,
    WeightPrefetcher,
    WeightSource,
)
from galaxy_mpi.systems import PageTable, PrefillPass, System

__all__ = ["DecodeMode", "ModeTotals", "PrefillMode"]


@dataclass
class ModeTotals:
    """What a mode has cost since the beginning of the run, all its lives together."""

    collectives_s: float = 0.0
    prefetch: PrefetchStats = field(default_factory=PrefetchStats)
    persistent_bytes: int = 0
    """Of the life that had most."""

    def add(self, ccl: CCL, weights: WeightSource) -> None:
        """Note what one life has cost."""
        self.collectives_s += ccl.host_time_s
        self.prefetch.add(weights.stats())
        self.persistent_bytes = max(self.persistent_bytes, ccl.buffers.n_bytes)


class _Mode:
    """A life of one mode."""

    def __init__(self, ccl: CCL, weights: WeightSource, totals: ModeTotals) -> None:
        self.ccl, self._weights, self._totals = ccl, weights, totals

    def leave(self) -> None:
        """Release buffers, requests and the prefetcher's thread."""
        self._totals.add(self.ccl, self._weights)
        self._weights.close()
        self.ccl.free()

    def abandon(self) -> None:
        """End the prefetcher's thread only: after an error, requests may be under way."""
        self._weights.close()


class DecodeMode(_Mode):
    """One token of all users at a time, weights prefetched."""

    name = "decode"

    def __init__(
        self,
        chip: Chip,
        run: RunConfig,
        totals: ModeTotals,
        clock: Stamper | None,
        spans: HostSpans | None = None,
        before_unpack: Callable[[WeightId], None] | None = None,
        system: System | None = None,
    ) -> None:
        kind = system or run.emulated_system
        weights: WeightSource
        if run.prefetch and kind.prefetch:
            weights = WeightPrefetcher(
                chip.weights.tensors,
                chip.schedule,
                capacity_bytes=chip.buffer_bytes,
                before_unpack=before_unpack,
                note=None if spans is None else spans.add_prefetch,
                note_fill=None if spans is None else spans.add_fill,
            )
        else:
            weights = DirectWeights(chip.weights.tensors)
        note = None if spans is None else spans.add_collective
        ccl = kind.decode_ccl(chip.transport, clock=clock, note=note, buffers=kind.buffers)
        super().__init__(ccl, weights, totals)
        self._transformer = chip.transformer
        self.system = kind.decode(
            ccl, weights, chip.precision, chip.shape, chip.multiply, chip.modules
        )

    def logits(self, tokens_B: Ints, table: PageTable) -> F32:
        """Run a step; see `Transformer.decode`."""
        return self._transformer.decode(self.system, tokens_B, table)


class PrefillMode(_Mode):
    """Whole prompts, weights unpacked when they are used."""

    name = "prefill"

    def __init__(
        self,
        chip: Chip,
        run: RunConfig,
        totals: ModeTotals,
        clock: Stamper | None,
        spans: HostSpans | None = None,
    ) -> None:
        kind, lines = run.emulated_system, {}
        if run.line_reduce_scatter:
            lines["scatter"] = Line
        if run.line_all_gather:
            lines["gather"] = Line
        note = None if spans is None else spans.add_collective
        ccl = kind.prefill_ccl(
            chip.transport, clock=clock, note=note, buffers=kind.buffers, **lines
        )
        weights = DirectWeights(chip.weights.tensors)
        super().__init__(ccl, weights, totals)
        self._transformer = chip.transformer
        self.system = kind.prefill(
            ccl, weights, chip.precision, chip.shape, chip.multiply, chip.modules
        )

    def logits(self, work: PrefillPass, after_layer: Callable[[int, F32], None]) -> F32:
        """Run a pass; see `Transformer.prefill`."""
        return self._transformer.prefill(self.system, work, after_layer)

    def all_logits(self, work: PrefillPass, after_layer: Callable[[int, F32], None]) -> F32:
        """Run a pass; see `Transformer.prefill_all`."""
        return self._transformer.prefill_all(self.system, work, after_layer)
