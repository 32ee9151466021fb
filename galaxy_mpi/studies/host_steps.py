"""Decode steps of variants of a system, timed on this computer."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

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
    stall_s: float
    """Of a step, waiting for the prefetcher."""
    tokens: tuple[int, ...]
    """What the users' next tokens are."""


def host_figures(engine: "Engine", variants: Sequence[Variant], turns: int) -> list[HostFigures]:
    """Time decode steps of each variant on all ranks alike: in turns, so that all see the same.

    The prompts are prefilled once; then every step is the same one, behind them.
    """
    from galaxy_mpi.engine.modes import DecodeMode
    from galaxy_mpi.prefetch import Prefetcher

    scheduler, chips = engine.new_scheduler(), engine.chips
    while requests := scheduler.next_prefill():
        engine.prefill(scheduler, requests)
    tables = {column: scheduler.page_table(column) for column in chips.columns}
    numbers = [request.number for request in scheduler.active]
    rows = [request.place for request in scheduler.active]
    modes = []
    for variant in variants:
        programs = engine.programs_of(variant.system)
        modes.append(DecodeMode(chips, programs, Prefetcher() if programs.prefetch else None))
    times: list[list[float]] = [[] for _ in variants]
    last: list[tuple[float, tuple[int, ...]]] = []
    for _ in range(turns):
        last = []
        for mode, medians in zip(modes, times, strict=True):
            taken, stall_s = [], mode.totals.prefetch.stall_s
            for step in range(STEPS + 1):
                began = time.perf_counter()
                ready = mode.run(scheduler.tokens, tables)
                values, tokens = ready.results("values")[0], ready.results("tokens")[0]
                chosen = engine.sampler.choose(values, tokens, rows, numbers)
                if step:
                    taken.append(time.perf_counter() - began)
            medians.append(statistics.median(taken))
            stall_s = (mode.totals.prefetch.stall_s - stall_s) / (STEPS + 1)
            last.append((stall_s, tuple(chosen.values())))
    for mode in modes:
        mode.free()
    return [HostFigures(tuple(t), *figures) for t, figures in zip(times, last, strict=True)]
