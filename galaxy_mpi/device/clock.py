"""Clocks of all chips of a mesh, advanced together.

An array holds one value a chip, (R, C), so 32 chips cost what one costs. Ops advance each chip by
itself; a collective ends for a member when what the farthest-behind member sent has reached it.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from galaxy_mpi.device.machine import Machine
from galaxy_mpi.device.trace import COMPUTE, PREFETCH, Trace
from galaxy_mpi.errors import ConfigError
from galaxy_mpi.mesh import Axis, Mesh

__all__ = ["MeshClock", "Slowness"]

Seconds = NDArray[np.float64]


@dataclass(frozen=True)
class Slowness:
    """What is slower than it should be, by which factor."""

    chips: dict[tuple[int, int], float] = field(default_factory=dict)
    """By (row, column): its ops take so many times as long."""
    links: dict[tuple[int, int, Axis], float] = field(default_factory=dict)
    """By (row, column, axis): so are the wires from that chip to the next one along the axis, and
    a collective goes at the pace of the slowest wire of its group."""

    @classmethod
    def parse(cls, chips: Sequence[str], links: Sequence[str], mesh: Mesh) -> "Slowness":
        """Read ``ROW,COLUMN,FACTOR`` and ``ROW,COLUMN,ROWS|COLS,FACTOR``.

        Raises
        ------
        ConfigError
            If a text is no such thing, a chip is outside the mesh or a factor is not above 0.

        Examples
        --------
        >>> Slowness.parse(["3,1,2.5"], [], Mesh(8, 4)).chips
        {(3, 1): 2.5}
        """
        slow_chips: dict[tuple[int, int], float] = {}
        slow_links: dict[tuple[int, int, Axis], float] = {}
        for text in chips:
            try:
                row, col, factor = text.split(",")
                slow_chips[int(row), int(col)] = float(factor)
            except ValueError:
                raise ConfigError(
                    f"--slow-chip is ROW,COLUMN,FACTOR, as 3,1,2.5; got {text!r}"
                ) from None
        for text in links:
            try:
                row, col, axis, factor = text.split(",")
                slow_links[int(row), int(col), Axis[axis.upper()]] = float(factor)
            except (ValueError, KeyError):
                raise ConfigError(
                    f"--slow-link is ROW,COLUMN,ROWS|COLS,FACTOR, as 3,1,COLS,2.5; got {text!r}"
                ) from None
        for (row_, col_, *_), factor_ in (*slow_chips.items(), *slow_links.items()):
            if not (0 <= row_ < mesh.rows and 0 <= col_ < mesh.cols):
                raise ConfigError(
                    f"chip ({row_}, {col_}) is outside the {mesh} mesh: rows 0 to {mesh.rows - 1}, "
                    f"columns 0 to {mesh.cols - 1}"
                )
            if not 0 < factor_ < 1e6:
                raise ConfigError(
                    f"the factor of chip ({row_}, {col_}) must be above 0, got {factor_}"
                )
        return cls(slow_chips, slow_links)


class MeshClock:
    """Device time of every chip, in seconds since the beginning of the run.

    Parameters
    ----------
    machine : Machine
    mesh : Mesh
    capacity_bytes : float, optional
        Of the circular buffer; the machine's by default.
    slowness : Slowness, optional
    trace : Trace, optional
        Gets every op, read and collective.

    Attributes
    ----------
    now : ndarray of shape (R, C)
        When the worker cores of each chip are free.
    by_op_s : dict of str to float
        Seconds of chip (0, 0) by op, gaps and waiting included.
    stall_s : ndarray of shape (R, C)
        Seconds that the workers waited for the prefetcher.
    link_bytes : dict of Axis to float
        Bytes that the busiest link of an axis has carried, one direction.
    gap_s : float
        Seconds between two ops: those of a recorded trace, unless the mode sets another.
    """

    def __init__(
        self,
        machine: Machine,
        mesh: Mesh,
        capacity_bytes: float | None = None,
        slowness: Slowness | None = None,
        trace: Trace | None = None,
    ) -> None:
        self._machine, self._mesh = machine, mesh
        shape = (mesh.rows, mesh.cols)
        self.gap_s = machine.op_gap_s
        self._capacity = machine.circular_buffer_bytes if capacity_bytes is None else capacity_bytes
        self._trace = trace
        slowness = slowness or Slowness()
        self._chip_factor: Seconds = np.ones(shape)
        for chip, factor in slowness.chips.items():
            self._chip_factor[chip] = factor
        self._wire_factor = {axis: np.ones(shape) for axis in Axis}
        for (row, col, axis), factor in slowness.links.items():
            group = np.s_[:, col] if axis is Axis.ROWS else np.s_[row, :]
            wires = self._wire_factor[axis]
            wires[group] = np.maximum(wires[group], factor)
        self.now: Seconds = np.zeros(shape)
        self.stall_s: Seconds = np.zeros(shape)
        self._dram_free: Seconds = np.zeros(shape)
        self._queue: list[tuple[float, Seconds]] = []
        self.link_bytes = dict.fromkeys(Axis, 0.0)
        self.by_op_s: defaultdict[str, float] = defaultdict(float)

    def begin_step(self) -> None:
        """Start the prefetcher: the circular buffer is empty and DRAM is free."""
        self._dram_free = self.now.copy()
        self._queue = []

    def op(self, name: str, seconds: float | Seconds) -> None:
        """Run an op on the worker cores of every chip; seconds may differ by column."""
        self._advance(name, self.now + seconds * self._chip_factor)

    def compute(self, name: str, seconds: float) -> None:
        """Run a part of an op that goes on: no gap behind it."""
        taken = seconds * self._chip_factor
        self.by_op_s[name] += float(taken[0, 0])
        if self._trace is not None:
            self._trace.add(COMPUTE, name, self.now, self.now + taken)
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
        start = self._dram_free if room_free is None else np.maximum(self._dram_free, room_free)
        self._dram_free = start + n_bytes / self._machine.dram_bytes_per_s
        stall = np.maximum(0.0, self._dram_free - self.now)
        self.stall_s += stall
        self.by_op_s["prefetch_stall"] += float(stall[0, 0])
        self.now = self.now + stall
        if self._trace is not None:
            self._trace.add(PREFETCH, "weight", start, self._dram_free)
        self._queue.append((n_bytes, self.now))

    def consumed(self) -> None:
        """Note that the weight taken last has left the buffer now."""
        size, _ = self._queue[-1]
        self._queue[-1] = (size, self.now)

    def collective(
        self, name: str, axis: Axis, own_s: float, wire_s: float, *, laps: int = 1
    ) -> None:
        """Run a collective, which ends for a chip when its whole group's data is there.

        Parameters
        ----------
        own_s : float
            What each chip takes by itself.
        wire_s : float
            In which the busiest wire passes its bytes.
        laps : int
            How often a notice goes the longest way: once with the data, once more for a barrier.
        """
        end = self._collected(axis, own_s, wire_s, laps)
        if self._trace is not None:
            self._trace.collective(name, axis, self.now, end)
        self._advance(name, end)

    def overlapped(
        self, name: str, axis: Axis, own_s: float, wire_s: float, beside_s: float
    ) -> None:
        """Run a collective while the workers compute for ``beside_s``; go on when both are done."""
        beside = self.now + beside_s * self._chip_factor
        end = self._collected(axis, own_s, wire_s, 1)
        if self._trace is not None:
            self._trace.collective(name, axis, self.now, end)
        self._advance(name, np.maximum(end, beside))

    def _collected(self, axis: Axis, own_s: float, wire_s: float, laps: int) -> Seconds:
        self.link_bytes[axis] += wire_s * self._machine.link_bytes_per_s
        taken = own_s * self._chip_factor + wire_s * self._wire_factor[axis]
        result: Seconds = self._arrived(axis, self.now, laps) + taken
        return result

    def _arrived(self, axis: Axis, start: Seconds, laps: int) -> Seconds:
        """Return when the last of the group's data is there: entry and distance of each member."""
        size = self._mesh.size(axis)
        members = np.arange(size)
        apart = np.abs(members[:, None] - members[None, :])
        if self._machine.topology == "ring":
            apart = np.minimum(apart, size - apart)
        delay = apart * (laps * self._machine.link_hop_s)
        entries: Any = start if axis is Axis.ROWS else start.T  # (members, groups)
        arrived = (entries[None, :, :] + delay[:, :, None]).max(axis=1)
        result: Seconds = arrived if axis is Axis.ROWS else arrived.T
        return result

    def _advance(self, name: str, end: Seconds) -> None:
        if self._trace is not None:
            self._trace.add(COMPUTE, name, self.now, end)
        end = end + self.gap_s
        self.by_op_s[name] += float(end[0, 0] - self.now[0, 0])
        self.now = end
