"""One decode step on all chips: when each op, read and collective began and ended, with its layer.

It is what pictures are drawn from. A trace has the same as events of a file
(`galaxy_mpi.timing.spans`); here everything stays an array of shape (R, C), beside its charge.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from galaxy_mpi.program.charge import Cross, Kernel, Take
from galaxy_mpi.program.op import Use
from galaxy_mpi.program.spent import Bound

__all__ = ["ChipShares", "Read", "StepRecord", "Work"]

Seconds = NDArray[np.float64]


@dataclass(frozen=True)
class Work:
    """An op, a part of one, or a collective, on all chips; without the gap after it."""

    layer: int
    """``HEAD`` outside the layers."""
    charge: Kernel | Cross
    begin_s: Seconds
    end_s: Seconds
    waited_s: Seconds
    """Of a collective: for the chip of the group that enters last, beyond what signals take."""
    link_bytes: float = 0.0
    """Of a collective: what the busiest link carries, one direction."""


@dataclass(frozen=True)
class Read:
    """A weight on its way from DRAM into the circular buffer, on all chips."""

    layer: int
    name: str
    """Of the weight, as in the model."""
    begin_s: Seconds
    end_s: Seconds


@dataclass(frozen=True)
class ChipShares:
    """How each chip spends a step: seconds of shape (R, C) that add up to the step."""

    busy_s: Seconds
    """In ops of its own."""
    collective_s: Seconds
    """In collectives, less what it waits for others."""
    waiting_s: Seconds
    """In collectives, for chips that enter later."""
    stall_s: Seconds
    """For weights that the prefetcher has not delivered."""
    host_s: Seconds
    """While the host works."""
    gap_s: Seconds
    """Between ops, and after the last one until every chip is done."""


class StepRecord:
    """Collects what the mesh clock does in one decode step (`galaxy_mpi.timing.spans.Watcher`).

    Parameters
    ----------
    uses : sequence of Use
        The op of each charge.

    Attributes
    ----------
    work : list of Work
    reads : list of Read
    fill_changes : list of (ndarray of shape (R, C), float)
        When the circular buffers came to hold so many bytes more.
    """

    def __init__(self, uses: Sequence[Use]) -> None:
        self.work: list[Work] = []
        self.reads: list[Read] = []
        self.fill_changes: list[tuple[Seconds, float]] = []
        self._stalls: list[Seconds] = []
        self._uses = uses
        self._use: Use | None = None
        self._n_taken = 0

    def at(self, place: int, now: Seconds) -> None:
        """Go on to a charge."""
        if self._uses[place] is not self._use:
            self._use, self._n_taken = self._uses[place], 0

    def kernel(self, kernel: Kernel, begin: Seconds, end: Seconds, spent: object) -> None:
        """Note an op or a part of one."""
        self.work.append(Work(self._layer, kernel, begin, end, np.zeros_like(begin)))

    def cross(
        self,
        cross: Cross,
        begin: Seconds,
        ends: tuple[Seconds, Seconds],
        waited_s: Seconds,
        n_bytes: float,
    ) -> None:
        """Note a collective; waiting that is covered by concurrent work is not counted."""
        sent, end = ends
        # A difference of sums: below a rounding of them it is nothing.
        waited_s = np.where((waited_s > 1e-12) & (end <= sent), waited_s, 0.0)
        self.work.append(Work(self._layer, cross, begin, end, waited_s, n_bytes))

    def take(self, take: Take, read: tuple[Seconds, Seconds], wanted: Seconds) -> None:
        """Note the read of a weight, and how long each chip waits for it."""
        assert self._use is not None
        names = [str(matrix.weight) for matrix in self._use.op.matrices()]
        name = names[self._n_taken] if self._n_taken < len(names) else self._use.op.name
        self._n_taken += 1
        begin, end = read
        self.reads.append(Read(self._layer, name, begin, end))
        self.fill_changes.append((begin, take.n_bytes))
        self._stalls.append(np.maximum(0.0, end - wanted))

    def consumed(self, now: Seconds, n_bytes: float) -> None:
        """Note that a weight leaves the circular buffers."""
        self.fill_changes.append((now, -n_bytes))

    def end(self, now: Seconds) -> None:
        """Note when each chip is done."""
        self.end_s = now

    @property
    def layers(self) -> list[int]:
        """Numbers of the layers that have ops, in order."""
        return list(dict.fromkeys(work.layer for work in self.work if work.layer >= 0))

    def shares(self, step_s: float) -> ChipShares:
        """Return how each chip spends a step of ``step_s`` seconds."""
        zero = np.zeros_like(self.work[0].begin_s)
        busy, collective, waiting, host = zero, zero, zero, zero
        for work in self.work:
            spent = work.end_s - work.begin_s
            if isinstance(work.charge, Cross):
                waiting = waiting + work.waited_s
                collective = collective + spent - work.waited_s
            elif work.charge.cores:
                busy = busy + spent
            elif getattr(work.charge.seconds, "bound", None) is Bound.HOST:
                host = host + spent
        stalled = sum(self._stalls, zero)
        gaps = step_s - busy - collective - waiting - stalled - host
        return ChipShares(busy, collective, waiting, stalled, host, np.maximum(gaps, 0.0))

    @property
    def _layer(self) -> int:
        assert self._use is not None
        return self._use.layer
