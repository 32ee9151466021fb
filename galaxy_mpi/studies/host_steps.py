"""Decode steps of variants of a system, timed on this computer."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from galaxy_mpi.studies.ideas import Variant

if TYPE_CHECKING:  # comparing device times needs no engine
    from galaxy_mpi.engine.engine import Engine
    from galaxy_mpi.engine.scheduler import Scheduler

__all__ = ["HostFigures", "host_figures"]

STEPS = 2
"""Timed steps per turn, after one that is not timed."""


@dataclass(frozen=True)
class HostFigures:
    """Host figures of a variant."""

    step_s: tuple[float, ...]
    """Median of each turn."""
    stall_s: float
    """Wait for the prefetcher in a step."""
    tokens: tuple[int, ...]
    """Next token of each user."""


def host_figures(engine: "Engine", variants: Sequence[Variant], turns: int) -> list[HostFigures]:
    """Time decode steps of each variant, in turns, so that all see the same load of the computer.

    The prompts are prefilled once; every step is the same one, after them.
    """
    scheduler = engine.new_scheduler()
    while requests := scheduler.next_prefill():
        engine.prefill(scheduler, requests)
    steps = _Steps(engine, scheduler)
    times: list[list[float]] = [[] for _ in variants]
    last: list[tuple[float, tuple[int, ...]]] = []
    for _ in range(turns):
        last = []
        for variant, medians in zip(variants, times, strict=True):
            taken, stall_s, tokens = steps.time(variant)
            medians.append(statistics.median(taken))
            last.append((stall_s, tokens))
    return [HostFigures(tuple(t), *figures) for t, figures in zip(times, last, strict=True)]


class _Steps:
    """The step after the prompts, with any system."""

    def __init__(self, engine: "Engine", scheduler: "Scheduler") -> None:
        self._engine, self._tokens = engine, scheduler.tokens
        self._tables = {column: scheduler.page_table(column) for column in engine.chips.columns}
        self._numbers = [request.number for request in scheduler.active]
        self._rows = [request.place for request in scheduler.active]

    def time(self, variant: Variant) -> tuple[list[float], float, tuple[int, ...]]:
        """Return seconds per step, stall seconds per step, and the next tokens."""
        from galaxy_mpi.engine.parts import make_modes

        programs = self._engine.programs.of(variant.system)
        mode, _ = make_modes(self._engine.chips, programs, None)
        taken, sampled = [], dict[int, int]()
        try:
            for step in range(STEPS + 1):
                began = time.perf_counter()
                ready = mode.run(self._tokens, self._tables)
                values, tokens = ready.results("values")[0], ready.results("tokens")[0]
                sampled = self._engine.sampler.choose(values, tokens, self._rows, self._numbers)
                if step:
                    taken.append(time.perf_counter() - began)
            stall_s = mode.totals.prefetch.stall_s / (STEPS + 1)
        finally:
            mode.free()
        return taken, stall_s, tuple(sampled.values())
