"""One decode step on all chips: when each op, read and collective began and ended, with its layer.

It is what pictures are drawn from. The mesh clock notes the same into a `Trace`, as events of a
file; here everything stays an array of shape (R, C), beside the charge that it is about.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from galaxy_mpi.mesh import Axis
from galaxy_mpi.program.charge import Charge, Cross, Kernel, Take
from galaxy_mpi.program.op import Use
from galaxy_mpi.timing.trace import COMPUTE

__all__ = ["ChipShares", "Read", "StepRecord", "StepWatcher", "Work"]

Seconds = NDArray[np.float64]


class StepWatcher(Protocol):
    """What the mesh clock tells while it plays a program: `Trace`, `StepRecord`."""

    def add(self, track: str, name: str, begin: Seconds, end: Seconds, **args: float) -> None:
        """Note that every chip was busy; arrays of shape (R, C)."""

    def collective(
        self, name: str, axis: Axis, begin: Seconds, end: Seconds, n_bytes: float
    ) -> None:
        """Note a collective on the links."""

    def fills(self, at: Seconds, n_bytes: float) -> None:
        """Note that every circular buffer holds so many bytes more from then on."""


@dataclass(frozen=True)
class Work:
    """An op, a part of one, or a collective, on all chips; the gap behind it is not in it."""

    layer: int
    """``HEAD`` outside the layers."""
    charge: Kernel | Cross
    begin_s: Seconds
    end_s: Seconds
    link_bytes: float = 0.0
    """Of a collective: what the busiest link carries, one direction."""


@dataclass(frozen=True)
class Read:
    """A weight on its way from DRAM into the circular buffer, on all chips."""

    layer: int
    name: str
    """Of the weight, as in the model."""
    n_bytes: float
    begin_s: Seconds
    end_s: Seconds


@dataclass(frozen=True)
class ChipShares:
    """How each chip spends a step: seconds of shape (R, C) that add up to the step."""

    busy_s: Seconds
    """In ops of its own."""
    collective_s: Seconds
    """In collectives, from when the last chip of the group is there."""
    waiting_s: Seconds
    """In collectives, for chips that enter later."""
    stall_s: Seconds
    """For weights that the prefetcher has not delivered."""
    gap_s: Seconds
    """Between ops, and behind the last one until every chip is done."""


class StepRecord:
    """Collects what the mesh clock does in one decode step.

    Parameters
    ----------
    uses : list of (Use, Charge)
        Of the program, in order (`Program.charges`).
    gap_s : float
        Between two ops.

    Attributes
    ----------
    work : list of Work
    reads : list of Read
    fill_changes : list of (ndarray of shape (R, C), float)
        When the circular buffers came to hold so many bytes more.
    """

    def __init__(self, uses: list[tuple[Use, Charge]], gap_s: float) -> None:
        self.work: list[Work] = []
        self.reads: list[Read] = []
        self.fill_changes: list[tuple[Seconds, float]] = []
        self._gap_s = gap_s
        self._of_work = iter([pair for pair in uses if isinstance(pair[1], (Kernel, Cross))])
        self._of_reads = iter(_weights(uses))
        self._link_bytes = 0.0
        self._order: list[Work | Read] = []

    def add(self, track: str, name: str, begin: Seconds, end: Seconds, **args: float) -> None:
        """Note an op or a read."""
        if track == COMPUTE:
            use, charge = next(self._of_work)
            assert isinstance(charge, (Kernel, Cross))
            assert charge.name == name, f"the clock is at {name}, the program at {charge.name}"
            work = Work(use.layer, charge, begin, end, self._link_bytes)
            self.work.append(work)
            self._order.append(work)
            self._link_bytes = 0.0
        else:
            layer, weight, n_bytes = next(self._of_reads)
            read = Read(layer, weight, n_bytes, begin, end)
            self.reads.append(read)
            self._order.append(read)

    def collective(
        self, name: str, axis: Axis, begin: Seconds, end: Seconds, n_bytes: float
    ) -> None:
        """Note the bytes of the collective whose op is told next."""
        self._link_bytes = n_bytes

    def fills(self, at: Seconds, n_bytes: float) -> None:
        """Note that a weight arrived or left."""
        self.fill_changes.append((at, n_bytes))

    @property
    def layers(self) -> list[int]:
        """Numbers of the layers that have ops, in order."""
        return list(dict.fromkeys(work.layer for work in self.work if work.layer >= 0))

    def waited_s(self, work: Work) -> Seconds:
        """Return how long each chip waits in a collective for the last of its group to enter."""
        assert isinstance(work.charge, Cross)
        axis = 0 if work.charge.wire.axis is Axis.COLUMN else 1
        last = work.begin_s.max(axis=axis, keepdims=True)
        waited: Seconds = np.minimum(last - work.begin_s, work.end_s - work.begin_s)
        return waited

    def shares(self, step_s: float) -> ChipShares:
        """Return how each chip spends a step of ``step_s`` seconds."""
        zero = np.zeros_like(self.work[0].begin_s)
        busy, collective, waiting, stalled, free = zero, zero, zero, zero, zero
        for one in self._order:
            if isinstance(one, Read):
                stalled = stalled + np.maximum(0.0, one.end_s - free)
                continue
            spent = one.end_s - one.begin_s
            if isinstance(one.charge, Cross):
                waited = self.waited_s(one)
                waiting, collective = waiting + waited, collective + spent - waited
                free = one.end_s + self._gap_s
            else:
                busy = busy + spent
                free = one.end_s + (self._gap_s if one.charge.has_gap else 0.0)
        gaps = step_s - busy - collective - waiting - stalled
        return ChipShares(busy, collective, waiting, stalled, np.maximum(gaps, 0.0))


def _weights(uses: list[tuple[Use, Charge]]) -> list[tuple[int, str, float]]:
    """Return layer, name and bytes of each weight that is taken, in order."""
    found: list[tuple[int, str, float]] = []
    places: dict[int, Any] = {}
    for use, charge in uses:
        if isinstance(charge, Take):
            if id(use) not in places:
                places[id(use)] = iter([m.name for m in use.op.matrices() if m.is_prefetched])
            found.append((use.layer, next(places[id(use)], "weight"), charge.n_bytes))
    return found
