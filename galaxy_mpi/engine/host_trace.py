"""The host's trace: what each process was busy with, as it noted it, by chip.

Names and tracks are those of the device's trace (`galaxy_mpi.timing.trace`).
"""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from galaxy_mpi.mesh import Axis, Mesh
from galaxy_mpi.program import Use
from galaxy_mpi.timing.trace import (
    COMPUTE,
    HOST_TRACKS,
    PREFETCH,
    PROGRAM,
    WAITING,
    Trace,
    layer_name,
)
from galaxy_mpi.timing.traced import Traced

__all__ = ["HostSpans", "host_trace"]


class Span(NamedTuple):
    """A name, when it began and when it ended, in seconds of the host's clock."""

    name: str
    begin_s: float
    end_s: float


class Work(NamedTuple):
    """A chip at work on an op, without waiting for other chips."""

    rank: int
    op: str
    layer: int
    begin_s: float
    end_s: float


class Wait(NamedTuple):
    """Chips of a process in a crossing: from when they enter until all have."""

    ranks: tuple[int, ...]
    op: str
    axis: Axis
    begin_s: float
    end_s: float


@dataclass
class HostSpans:
    """What one process was busy with.

    Attributes
    ----------
    chips : tuple of int
        Ranks of its chips in the mesh.
    """

    chips: tuple[int, ...]
    traced: Traced
    steps: list[Span] = field(default_factory=list)
    work: list[Work] = field(default_factory=list)
    waits: list[list[Wait]] = field(default_factory=list)
    """Of each of ``steps``, in order: all processes cross alike."""
    prefetch: list[Span] = field(default_factory=list)
    stalls: list[Span] = field(default_factory=list)
    """Waits for a weight."""
    fills: list[tuple[float, int]] = field(default_factory=list)
    """When the circular buffer came to hold so many bytes more."""
    _title: str | None = None
    _began_s: float = 0.0
    _at: tuple[int, Use, float] | None = None

    def begin(self, mode: str) -> None:
        """Begin a pass (``prefill``) or a step (``decode``)."""
        self._title, self._began_s = self.traced.begin(mode), time.perf_counter()
        if self._title is not None:
            self.waits.append([])

    def end(self) -> None:
        """End it."""
        if self._title is not None:
            self.steps.append(Span(self._title, self._began_s, time.perf_counter()))
        self._title = None

    def working(self, rank: int, use: Use | None) -> None:
        """Note that a chip begins with an op, or has ended what it does up to a crossing."""
        if self._title is None:
            return
        now = time.perf_counter()
        if self._at is not None:
            before, of, began_s = self._at
            self.work.append(Work(before, of.op.name, of.layer, began_s, now))
        self._at = None if use is None else (rank, use, now)

    def crossed(self, ranks: Sequence[int], use: Use | None, axis: Axis, began: float) -> None:
        """Note that chips have crossed."""
        if self._title is not None:
            op = "" if use is None else use.op.name
            self.waits[-1].append(Wait(tuple(ranks), op, axis, began, time.perf_counter()))

    def add_fill(self, n_bytes: int) -> None:
        """Note that the circular buffer holds so many bytes more from now on."""
        if self._title is not None:
            self.fills.append((time.perf_counter(), n_bytes))

    def add_prefetch(self, name: str, begin_s: float, end_s: float) -> None:
        """Note that the prefetcher's thread unpacked a weight."""
        if self._title is not None:
            self.prefetch.append(Span(name, begin_s, end_s))

    def add_stall(self, name: str, begin_s: float, end_s: float) -> None:
        """Note that an op waited for a weight."""
        if self._title is not None:
            self.stalls.append(Span(name, begin_s, end_s))


def host_trace(mesh: Mesh, processes: Sequence[HostSpans]) -> Trace:
    """Return the host's trace, from the first span of any process; one host's clock is assumed."""
    trace = Trace(mesh, "host", HOST_TRACKS)
    steps = [step for spans in processes for step in spans.steps]
    begin_s = min((step.begin_s for step in steps), default=0.0)
    end_s = max((step.end_s for step in steps), default=0.0)
    trace.origin_s = -begin_s
    for spans in processes:
        for rank in spans.chips:
            trace.span(rank, PROGRAM, "run", begin_s, end_s)
            for step in spans.steps:
                trace.span(rank, PROGRAM, *step)
            for name, *of in _layers(spans, rank):
                trace.span(rank, PROGRAM, name, *of)
            for weight in spans.stalls:
                about = {"for": "prefetch"}
                trace.span(rank, WAITING, weight.name, weight.begin_s, weight.end_s, **about)
            for weight in spans.prefetch:
                trace.span(rank, PREFETCH, *weight)
        for at_s, n_bytes in spans.fills:
            trace.fill(spans.chips[0], at_s, n_bytes)
        for work in spans.work:
            about = {"op": work.op, "layer": layer_name(work.layer)}
            trace.span(work.rank, COMPUTE, work.op, work.begin_s, work.end_s, **about)
    for number in range(min((len(spans.waits) for spans in processes), default=0)):
        _add_waits(trace, mesh, [spans.waits[number] for spans in processes])
    return trace


def _layers(spans: HostSpans, rank: int) -> Iterator[tuple[str, float, float]]:
    """Yield the layers of a chip and their ops, from the first work on them to the last."""
    mine = [work for work in spans.work if work.rank == rank]
    for step in spans.steps:
        of_step = [work for work in mine if step.begin_s <= work.begin_s < step.end_s]
        for title in (lambda work: (layer_name(work.layer), work.layer), _op_of):
            begin_s = end_s = 0.0
            now: tuple[str, int] | None = None
            for work in of_step:
                name = title(work)
                if name != now:
                    if now is not None:
                        yield now[0], begin_s, end_s
                    now, begin_s = name, work.begin_s
                end_s = work.end_s
            if now is not None:
                yield now[0], begin_s, end_s


def _op_of(work: Work) -> tuple[str, int]:
    return work.op, work.layer


def _add_waits(trace: Trace, mesh: Mesh, processes: list[list[Wait]]) -> None:
    """Add the crossings of a pass or step, with arrows to the chip that came last."""
    found: dict[tuple[int, Axis, str, int], Wait] = {}
    for waits in processes:
        counts = Counter[tuple[int, Axis, str]]()
        for wait in waits:
            for rank in wait.ranks:
                # The k-th crossing of an op on an axis is the same one on all chips of a group.
                counts[rank, wait.axis, wait.op] += 1
                key = rank, wait.axis, wait.op, counts[rank, wait.axis, wait.op]
                found[key] = wait
    for (rank, axis, op, number), wait in found.items():
        group = [(other, axis, op, number) for other in mesh.group(rank, axis)]
        members = {key[0]: found[key].begin_s for key in group if key in found}
        last = max(members, key=lambda other: members[other])
        about = {"op": op}
        if last != rank:
            about["for"] = "chip ({}, {})".format(*mesh.coord(last))
        trace.span(rank, WAITING, op, wait.begin_s, wait.end_s, **about)
        if members[last] > wait.begin_s:
            trace.waits_for(op, rank, wait.begin_s, last, members[last])
