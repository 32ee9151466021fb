"""The clock of one chip of a run, which learns from messages when the others were where.

What a chip is charged for in a step is written down beforehand (`Tape`): it follows from sizes and
positions. When the chip enters a collective, the clock goes on to that place of the tape and its
time travels with the data; what comes back are the entry times of the whole group, and with them
the clock goes on. A tape that has another collective there is an error: then values and times
are no longer one program.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from galaxy_mpi.device.clock import Clock, Collective, Seconds, hop_delays
from galaxy_mpi.device.machine import Machine
from galaxy_mpi.device.slowness import Slowness
from galaxy_mpi.errors import CollectiveError
from galaxy_mpi.mesh import Axis, Mesh

__all__ = ["ChipClock", "Tape"]

_Entry = Collective | tuple[str, tuple[Any, ...]]
"""A collective, or another method of `Charged` with its arguments."""


class Tape:
    """What one chip is charged for, in order; `galaxy_mpi.device.clock.Charged` writes it.

    Parameters
    ----------
    column : int
        The chip's: attention takes another time in each.
    gap_s : float
        Between ops.
    """

    def __init__(self, column: int, gap_s: float) -> None:
        self.column, self.gap_s = column, gap_s
        self.entries: list[_Entry] = []

    def op(self, name: str, seconds: float | Seconds, cores: float) -> None:
        """Write down an op with this column's time."""
        if isinstance(seconds, np.ndarray):
            seconds = float(seconds[self.column])
        self.entries.append(("op", (name, seconds, cores)))

    def compute(self, name: str, seconds: float, cores: float) -> None:
        """Write down a part of an op."""
        self.entries.append(("compute", (name, seconds, cores)))

    def begin_step(self) -> None:
        """Write down that the prefetcher starts."""
        self.entries.append(("begin_step", ()))

    def take(self, n_bytes: float) -> None:
        """Write down that a weight is waited for."""
        self.entries.append(("take", (n_bytes,)))

    def consumed(self) -> None:
        """Write down that a weight has left the buffer."""
        self.entries.append(("consumed", ()))

    def collective(self, what: Collective) -> None:
        """Write down a collective."""
        self.entries.append(what)


class ChipClock(Clock):
    """Device time of one chip, as numbers.

    Parameters
    ----------
    machine, capacity_bytes, slowness
        As in `MeshClock`.
    mesh : Mesh
    rank : int
    """

    _later = staticmethod(max)

    def __init__(
        self,
        machine: Machine,
        mesh: Mesh,
        rank: int,
        capacity_bytes: float | None = None,
        slowness: Slowness | None = None,
    ) -> None:
        slowness = slowness or Slowness()
        factors = slowness.chip_factors(mesh)
        row, col = mesh.coord(rank)
        self._index = {axis: mesh.index(rank, axis) for axis in Axis}
        self._factors = {Axis.ROWS: factors[:, col], Axis.COLS: factors[row, :]}
        self._wires = {axis: slowness.wire_factors(mesh, axis)[row, col] for axis in Axis}
        self._delays = {axis: hop_delays(machine, mesh.size(axis)) for axis in Axis}
        self._tape = Tape(col, 0.0)
        self._next = 0
        super().__init__(machine, capacity_bytes, float(factors[row, col]), None)

    def start(self, tape: Tape) -> None:
        """Begin a pass or step at time 0."""
        self.reset()
        self.gap_s, self._tape, self._next = tape.gap_s, tape, 0

    def enter(self, key: str, axis: Axis) -> float:
        """Go on to the next collective and return when this chip enters it.

        Raises
        ------
        CollectiveError
            If the tape has another collective there.
        """
        self._play()
        here = self._here()
        if here is None or (here.key, here.axis) != (key, axis):
            expected = "the end" if here is None else f"{here.key} over {here.axis.name}"
            raise CollectiveError(
                f"{key} over {axis.name} is entered where device time expects {expected}; mend the "
                f"system or its timing, which must be one program"
            )
        entered: float = self.now
        return entered

    def leave(self, entries: NDArray[np.float64]) -> None:
        """Go on behind a collective, given when each member of the group entered it."""
        here = self._here()
        assert here is not None, "left without entering"
        while True:
            self._next += 1
            entries = self._collected(entries, here)
            self._play("consumed")  # takes no time: all members are still where ``entries`` says
            here = self._here()
            if here is None or not here.rides:
                return

    def finish(self) -> None:
        """Go on to the end of the tape.

        Raises
        ------
        CollectiveError
            If it has a collective that was not entered.
        """
        self._play()
        here = self._here()
        if here is not None:
            raise CollectiveError(
                f"device time expects {here.key}, which was never entered; mend the system or its "
                f"timing, which must be one program"
            )

    def _play(self, *methods: str) -> None:
        """Go on to the next collective, or as long as it is one of ``methods``."""
        entries = self._tape.entries
        while self._next < len(entries):
            entry = entries[self._next]
            if isinstance(entry, Collective) or (methods and entry[0] not in methods):
                return
            getattr(self, entry[0])(*entry[1])
            self._next += 1

    def _here(self) -> Collective | None:
        """Return the collective whose turn it is, None if it is something else's."""
        entries = self._tape.entries
        entry = entries[self._next] if self._next < len(entries) else None
        return entry if isinstance(entry, Collective) else None

    def _collected(self, entries: NDArray[np.float64], what: Collective) -> NDArray[np.float64]:
        """Advance, and return when each member goes on."""
        axis, factors = what.axis, self._factors[what.axis]
        self.link_bytes[axis] += what.wire_s * self._machine.link_bytes_per_s
        self.core_s += what.cores * (what.beside_s * self._factor)
        arrived = (entries[None, :] + self._delays[axis] * what.laps).max(axis=1)
        end = arrived + (what.own_s * factors + what.wire_s * self._wires[axis])
        end = np.maximum(end, entries + what.beside_s * factors)
        self._advance(what.name, float(end[self._index[axis]]), what.cores)
        result: NDArray[np.float64] = end + self.gap_s
        return result

    def _first(self, value: Any) -> float:
        return float(value)
