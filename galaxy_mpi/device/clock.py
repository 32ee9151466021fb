"""Clocks that a program of times is charged to.

A `Clock` has the engines of a chip: worker cores, prefetcher with its DRAM reads and circular
buffer, links. `MeshClock` keeps all chips of a mesh at once, `galaxy_mpi.device.chip_clock` one
chip of a run, which learns from messages when the others entered a collective. Both advance by
the same recurrences in the same order, so they agree to the last bit.
"""

from abc import ABC, abstractmethod
from collections import defaultdict
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from galaxy_mpi.device.machine import Machine
from galaxy_mpi.device.slowness import Slowness
from galaxy_mpi.device.trace import COMPUTE, PREFETCH, Trace
from galaxy_mpi.mesh import Axis, Mesh

__all__ = ["Charged", "Clock", "Collective", "MeshClock", "hop_delays"]

Seconds = NDArray[np.float64]


@dataclass(frozen=True)
class Collective:
    """What a collective is charged with."""

    name: str
    """Of the op."""
    key: str
    """Of the persistent buffer, by which a run knows the collective."""
    axis: Axis
    own_s: float
    """What each chip takes by itself."""
    wire_s: float
    """In which the busiest wire passes its bytes."""
    laps: int = 1
    """How often a notice goes the longest way: once with the data, once more for a barrier."""
    beside_s: float = 0.0
    """What the workers compute at the same time; they go on when both are done."""
    cores: float = 0.0
    """On which they do."""
    rides: bool = False
    """Whether a run sends its data along with the collective before it, on the same axis. Nothing
    that takes time may come between them."""


class Charged(Protocol):
    """What a program of times calls, op by op."""

    gap_s: float
    """Seconds between two ops: those of a recorded trace, unless the mode sets another."""

    def begin_step(self) -> None:
        """Start the prefetcher: the circular buffer is empty and DRAM is free."""

    def op(self, name: str, seconds: float | Seconds, cores: float) -> None:
        """Run an op on so many worker cores; seconds may differ by column, shape (C,)."""

    def compute(self, name: str, seconds: float, cores: float) -> None:
        """Run a part of an op that goes on: no gap behind it."""

    def take(self, n_bytes: float) -> None:
        """Wait until the prefetcher has delivered the next weight."""

    def consumed(self) -> None:
        """Note that the weight taken last has left the buffer now."""

    def collective(self, what: Collective) -> None:
        """Run a collective, which ends for a chip when its whole group's data is there."""


def hop_delays(machine: Machine, size: int) -> Seconds:
    """Return the seconds that a notice takes between any two members of a group of ``size``."""
    members = np.arange(size)
    apart = np.abs(members[:, None] - members[None, :])
    if machine.topology == "ring":
        apart = np.minimum(apart, size - apart)
    delays: Seconds = apart * machine.link_hop_s
    return delays


class Clock(ABC):
    """The engines of one chip, or of all at once: times are numbers or arrays of them.

    Attributes
    ----------
    now : float or ndarray
        When the worker cores are free.
    by_op_s : dict of str to float
        Seconds by op, gaps and waiting included; of chip (0, 0).
    core_s : float
        Core-seconds that ops of chip (0, 0) occupied.
    stall_s : float or ndarray
        Seconds that the workers waited for the prefetcher.
    link_bytes : dict of Axis to float
        Bytes that the busiest link of an axis has carried, one direction.
    """

    _later: ClassVar[Any]
    """Returns the later of two times."""

    def __init__(
        self, machine: Machine, capacity_bytes: float | None, factor: Any, trace: Trace | None
    ) -> None:
        self._machine, self._factor, self._trace = machine, factor, trace
        self._capacity = machine.circular_buffer_bytes if capacity_bytes is None else capacity_bytes
        self.gap_s = machine.op_gap_s
        self.reset()

    def reset(self) -> None:
        """Begin again at time 0, with nothing charged."""
        zero = 0.0 * self._factor
        self.now: Any = zero
        self.stall_s: Any = zero
        self._dram_free: Any = zero
        self._queue: list[tuple[float, Any]] = []
        self.core_s = 0.0
        self.by_op_s: defaultdict[str, float] = defaultdict(float)
        self.link_bytes = dict.fromkeys(Axis, 0.0)

    def begin_step(self) -> None:
        """Start the prefetcher: the circular buffer is empty and DRAM is free."""
        self._dram_free = self.now
        self._queue = []

    def op(self, name: str, seconds: float | Seconds, cores: float) -> None:
        """Run an op on the worker cores."""
        taken = seconds * self._factor
        self.core_s += cores * self._first(taken)
        self._advance(name, self.now + taken, cores)

    def compute(self, name: str, seconds: float, cores: float) -> None:
        """Run a part of an op that goes on: no gap behind it."""
        taken = seconds * self._factor
        self.by_op_s[name] += self._first(taken)
        self.core_s += cores * self._first(taken)
        if self._trace is not None:
            self._trace.add(COMPUTE, name, self.now, self.now + taken, cores=cores)
        self.now = self.now + taken

    def take(self, n_bytes: float) -> None:
        """Wait until the prefetcher has delivered the next weight.

        It starts to read when DRAM is free and the buffer has room, which is when the last of the
        weights that must leave first was consumed: ``ready = max(dram_free, room_free) + bytes /
        bandwidth``.
        """
        held, room_free = n_bytes, None
        for size, consumed in reversed(self._queue):
            held += size
            if held > self._capacity:
                room_free = consumed
                break
        start = self._dram_free if room_free is None else self._later(self._dram_free, room_free)
        self._dram_free = start + n_bytes / self._machine.dram_bytes_per_s
        stall = self._later(0.0, self._dram_free - self.now)
        self.stall_s = self.stall_s + stall
        self.by_op_s["prefetch_stall"] += self._first(stall)
        self.now = self.now + stall
        if self._trace is not None:
            self._trace.add(PREFETCH, "weight", start, self._dram_free)
            self._trace.fills(start, n_bytes)
        self._queue.append((n_bytes, self.now))

    def consumed(self) -> None:
        """Note that the weight taken last has left the buffer now."""
        size, _ = self._queue[-1]
        self._queue[-1] = (size, self.now)
        if self._trace is not None:
            self._trace.fills(self.now, -size)

    @abstractmethod
    def _first(self, value: Any) -> float:
        """Return the value of the chip whose ops are told apart."""

    def _advance(self, name: str, end: Any, cores: float) -> None:
        if self._trace is not None:
            self._trace.add(COMPUTE, name, self.now, end, cores=cores)
        end = end + self.gap_s
        self.by_op_s[name] += self._first(end) - self._first(self.now)
        self.now = end


class MeshClock(Clock):
    """Device time of every chip, arrays of shape (R, C): 32 chips cost what one costs.

    Parameters
    ----------
    machine : Machine
    mesh : Mesh
    capacity_bytes : float, optional
        Of the circular buffer; the machine's by default.
    slowness : Slowness, optional
    trace : Trace, optional
        Gets every op, read and collective.
    """

    _later = np.maximum

    def __init__(
        self,
        machine: Machine,
        mesh: Mesh,
        capacity_bytes: float | None = None,
        slowness: Slowness | None = None,
        trace: Trace | None = None,
    ) -> None:
        slowness = slowness or Slowness()
        self._wire_factor = {axis: slowness.wire_factors(mesh, axis) for axis in Axis}
        self._delays = {axis: hop_delays(machine, mesh.size(axis)) for axis in Axis}
        super().__init__(machine, capacity_bytes, slowness.chip_factors(mesh), trace)

    def collective(self, what: Collective) -> None:
        """Run a collective; see `Charged.collective`."""
        n_bytes = what.wire_s * self._machine.link_bytes_per_s
        self.link_bytes[what.axis] += n_bytes
        self.core_s += what.cores * self._first(what.beside_s * self._factor)
        arrived = self._arrived(what.axis, what.laps)
        wires = self._wire_factor[what.axis]
        end = arrived + (what.own_s * self._factor + what.wire_s * wires)
        if self._trace is not None:
            self._trace.collective(what.name, what.axis, self.now, end, n_bytes)
        beside = self.now + what.beside_s * self._factor
        self._advance(what.name, np.maximum(end, beside), what.cores)

    def _arrived(self, axis: Axis, laps: int) -> Seconds:
        """Return when the last of the group's data is there: entry and distance of each member."""
        delays = self._delays[axis] * laps
        entries: Any = self.now if axis is Axis.ROWS else self.now.T  # (members, groups)
        arrived = (entries[None, :, :] + delays[:, :, None]).max(axis=1)
        result: Seconds = arrived if axis is Axis.ROWS else arrived.T
        return result

    def _first(self, value: Any) -> float:
        return float(value[0, 0])
