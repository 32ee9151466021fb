"""The host's trace: what each rank was busy with, as it noted it."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from galaxy_mpi.mesh import Axis, Mesh
from galaxy_mpi.timing import Trace

__all__ = ["HostSpans", "host_trace"]

STEPS, COLLECTIVES, PREFETCH = "steps", "collectives", "prefetch"


@dataclass
class HostSpans:
    """What one rank was busy with: (name, begin, end) in seconds of the host's clock."""

    steps: list[tuple[str, float, float]] = field(default_factory=list)
    collectives: list[tuple[str, Axis, float, float]] = field(default_factory=list)
    prefetch: list[tuple[str, float, float]] = field(default_factory=list)
    fills: list[tuple[float, int]] = field(default_factory=list)
    """When the circular buffer came to hold so many bytes more."""
    is_full: bool = False
    """Whether no more is wanted."""

    def add_fill(self, n_bytes: int) -> None:
        """Note that the circular buffer holds so many bytes more from now on."""
        if not self.is_full:
            self.fills.append((time.perf_counter(), n_bytes))

    def add_step(self, name: str, begin_s: float, end_s: float) -> None:
        """Note a pass or a step."""
        if not self.is_full:
            self.steps.append((name, begin_s, end_s))

    def add_collective(self, name: str, axis: Axis, begin_s: float, end_s: float) -> None:
        """Note a collective: copying, packing and waiting."""
        if not self.is_full:
            self.collectives.append((name, axis, begin_s, end_s))

    def add_prefetch(self, name: str, begin_s: float, end_s: float) -> None:
        """Note that the prefetcher's thread unpacked a weight."""
        if not self.is_full:
            self.prefetch.append((name, begin_s, end_s))


def host_trace(mesh: Mesh, ranks: Sequence[HostSpans]) -> Trace:
    """Return the host's trace, from the first span of any rank; one host's clock is assumed."""
    trace = Trace(mesh, "host", (STEPS, COLLECTIVES, PREFETCH))
    begins = [span[-2] for spans in ranks for span in spans.steps]
    trace.origin_s = -min(begins, default=0.0)
    for rank, spans in enumerate(ranks):
        for name, begin_s, end_s in spans.steps:
            trace.span(rank, STEPS, name, begin_s, end_s)
        for name, begin_s, end_s in spans.prefetch:
            trace.span(rank, PREFETCH, name, begin_s, end_s)
        for at_s, n_bytes in spans.fills:
            trace.fill(rank, at_s, n_bytes)
        for name, _, begin_s, end_s in spans.collectives:
            trace.span(rank, COLLECTIVES, name, begin_s, end_s)
    # All ranks run the same collectives in the same order.
    for number in range(min(len(spans.collectives) for spans in ranks)):
        ends = [spans.collectives[number][3] for spans in ranks]
        for rank, spans in enumerate(ranks):
            name, axis, begin_s, _ = spans.collectives[number]
            trace.flow(name, COLLECTIVES, rank, axis, begin_s, ends)
    return trace
