"""Decode steps of variants of a system, timed on this computer."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from galaxy_mpi.arrays import Ints
from galaxy_mpi.studies.ideas import Variant

if TYPE_CHECKING:  # comparisons in device time need no engine
    from galaxy_mpi.engine.engine import Engine

__all__ = ["HostFigures", "host_figures"]

STEPS = 2
"""Steps that are timed in a turn of a variant, behind one that is not."""


@dataclass(frozen=True)
class HostFigures:
    """A variant on this computer."""

    step_s: tuple[float, ...]
    """Median of each turn."""
    allocations: float
    """Buffers that a rank makes in a step."""
    allocated_bytes: float
    stall_s: float
    """Of a step, waiting for the prefetcher."""
    tokens: tuple[int, ...]
    """What the users' next tokens are."""


def host_figures(engine: "Engine", variants: Sequence[Variant], turns: int) -> list[HostFigures]:
    """Time decode steps of each variant on all ranks alike: in turns, so that all see the same.

    The prompts are prefilled once; then every step is the same one, behind them.
    """
    from galaxy_mpi.engine.modes import DecodeMode, ModeTotals

    scheduler = engine.new_scheduler()
    while requests := scheduler.next_prefill():
        engine.prefill(scheduler, requests)
    engine.leave_mode()
    chip, table = engine.chip, scheduler.page_table(engine.chip.column)
    places: Ints = scheduler.tokens
    numbers = [request.number for request in scheduler.active]
    rows = [request.place for request in scheduler.active]
    times: list[list[float]] = [[] for _ in variants]
    last: list[tuple[float, float, float, tuple[int, ...]]] = []
    for _ in range(turns):
        last = []
        for variant, medians in zip(variants, times, strict=True):
            totals, taken = ModeTotals(), []
            mode = DecodeMode(chip, engine.run, totals, None, system=variant.system)
            for step in range(STEPS + 1):
                began, buffers = time.perf_counter(), mode.ccl.buffers
                made, n_bytes = buffers.n_made, buffers.n_bytes_made
                logits = mode.logits(places, table)
                sampled = engine.sampler.sample(mode.ccl, logits, rows, numbers)
                if step:
                    taken.append(time.perf_counter() - began)
                made, n_bytes = buffers.n_made - made, buffers.n_bytes_made - n_bytes
            mode.leave()
            medians.append(statistics.median(taken))
            stall_s = totals.prefetch.stall_s / (STEPS + 1)
            last.append((made, n_bytes, stall_s, tuple(sampled.values())))
    return [HostFigures(tuple(t), *figures) for t, figures in zip(times, last, strict=True)]
