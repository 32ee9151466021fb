"""The charges of a program as one flat list, with everything that clocks need precomputed.

A *moment* is the end of an op, a part of one, a wait for a weight, or a collective. Clocks record
the time of each moment of chip (0, 0), the only chip with per-op times; `Tape.timing` turns these
into figures.
"""

import math
from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from galaxy_mpi.arrays import added
from galaxy_mpi.ccl.wire import Wire
from galaxy_mpi.errors import ProgramError
from galaxy_mpi.mesh import Axis, Mesh
from galaxy_mpi.program.charge import Charge, Consumed, Cross, Kernel, Take
from galaxy_mpi.program.op import Program, Use
from galaxy_mpi.program.spent import Bound
from galaxy_mpi.timing.charge_checks import check_charges, check_exchanged, check_rides
from galaxy_mpi.timing.costs import Costs
from galaxy_mpi.timing.moments import BOUNDS, STALL, Moments, number_of
from galaxy_mpi.timing.ticks import array_in_ticks, charge_in_ticks, in_ticks, spent_in_ticks
from galaxy_mpi.timing.times import Timing

__all__ = ["STALL", "Tape", "Told"]


class Told:
    """The record of a clock for chip (0, 0)."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        """The time of each moment."""
        self.stalls: list[float] = []
        """Seconds of each wait for a weight."""


class Tape:
    """The charges of a program, in order; the same for all chips of a mesh.

    Parameters
    ----------
    program : Program
    costs : Costs
        For the machine as the program's system uses it.
    capacity_bytes : float, optional
        Capacity of the circular buffer in device bytes; the machine's by default.

    Attributes
    ----------
    charges : list of Charge
    uses : list of Use
        The op of each.
    rooms : list of int
        For each weight, the number of the weight that must have left the circular buffer before it
        can be read; -1 if there is room.
    attentions : list of Kernel
        The kernels whose time depends on positions, each once.
    """

    def __init__(self, program: Program, costs: Costs, capacity_bytes: float | None = None) -> None:
        self.costs = costs
        self.gap_s = in_ticks(costs.gap_s(program.mode))
        self.issue_s = in_ticks(costs.issue_s(program.mode))
        charged = list(program.charges(costs))
        check_charges(charged)
        self.uses: list[Use] = [use for use, _ in charged]
        self.charges: list[Charge] = _in_ticks([charge for _, charge in charged], costs)
        capacity = costs.machine.circular_buffer_bytes if capacity_bytes is None else capacity_bytes
        self.rooms = _rooms([c.n_bytes for c in self.charges if isinstance(c, Take)], capacity)
        self.attentions: list[Kernel] = []
        known: set[int] = set()
        for charge in self.charges:
            if isinstance(charge, Kernel) and callable(charge.seconds) and id(charge) not in known:
                known.add(id(charge))
                self.attentions.append(charge)
        check_rides(self.charges)

    def check(self, exchanged: Sequence[tuple[Use, Wire]], mesh: Mesh) -> None:
        """Raise if the charged collectives are not those that were bound; `check_exchanged`."""
        check_exchanged(list(zip(self.uses, self.charges, strict=True)), exchanged, mesh)

    def attended_s(self, positions: Sequence[int]) -> list[list[float]]:
        """Return the seconds of each of `attentions` in the columns of ``positions``."""
        found = []
        for kernel in self.attentions:
            assert callable(kernel.seconds)
            spent = list(kernel.seconds(positions))
            if not all(0 <= seconds < math.inf for seconds in spent):
                raise ProgramError(
                    f"{kernel.name} charges {spent} seconds at positions {list(positions)}; they "
                    f"must be finite and at least 0"
                )
            found.append([spent_in_ticks(seconds) for seconds in spent])
        return found

    def dram_s(self, spent: float) -> float:
        """Return how long an attention keeps DRAM busy."""
        return self.read_s(getattr(spent, "dram_bytes", 0.0))

    def read_s(self, n_bytes: float) -> float:
        """Return how long DRAM takes to read so many bytes."""
        return in_ticks(n_bytes / self.costs.machine.dram_bytes_per_s)

    @cached_property
    def numbers(self) -> dict[int, int]:
        """Index of each of `attentions`, by identity."""
        return {id(kernel): number for number, kernel in enumerate(self.attentions)}

    @property
    def crosses(self) -> list[Cross]:
        """The collectives."""
        return [charge for charge in self.charges if isinstance(charge, Cross)]

    @cached_property
    def link_bytes(self) -> dict[Axis, float]:
        """Bytes that the busiest link of each axis carries, one direction."""
        found = dict.fromkeys(Axis, 0.0)
        for cross in self.crosses:
            found[cross.wire.axis] += self.crossed_bytes(cross)
        return found

    def crossed_bytes(self, cross: Cross) -> float:
        """Return the bytes that a collective sends over its busiest link."""
        if cross.link_bytes is not None:
            return cross.link_bytes
        return cross.wire_s * self.costs.machine.link_bytes_per_s

    def timing(
        self, told: Told, attended_s: Sequence[float], factor: float, seconds: float, stall_s: float
    ) -> Timing:
        """Return the figures of a step or pass.

        Parameters
        ----------
        told : Told
            The record of chip (0, 0).
        attended_s : sequence of float
            Seconds of each of `attentions` on chip (0, 0), if it were not slow.
        factor : float
            How much slower its ops are.
        seconds : float
            When the last chip is done.
        stall_s : float
            Stall of the chip that waited longest.
        """
        moments, taken = self._moments, self._taken_s(attended_s, factor)
        spans = self._spans_s(told, taken)
        # Sums in the order of the moments, as a clock would add them.
        by_op_s = {name: _sum(spans[places]) for name, places in moments.by_name.items()}
        link_bytes = {axis.group_name: n_bytes for axis, n_bytes in self.link_bytes.items()}
        bound_of, by_bound_s = self._bounds(spans, taken, attended_s)
        dram_bytes, flops = self.work_of(attended_s)
        return Timing(
            seconds,
            by_op_s,
            stall_s,
            _sum(moments.cores * taken),
            link_bytes,
            dram_bytes=dram_bytes,
            flops=flops,
            bound_of=bound_of,
            by_bound_s=by_bound_s,
        )

    def work_of(self, attended_s: Sequence[float]) -> tuple[float, float]:
        """Return the bytes of DRAM and the flops of a chip.

        Parameters
        ----------
        attended_s : sequence of float
            Seconds of each of `attentions` there, which remember what they were spent on.
        """
        of_attention = [
            (
                len(places) * getattr(spent, "dram_bytes", 0.0),
                len(places) * getattr(spent, "flops", 0.0),
            )
            for places, spent in zip(self._moments.attended, attended_s, strict=True)
        ]
        return (
            self._moments.dram_bytes + sum(n_bytes for n_bytes, _ in of_attention),
            self._moments.flops + added(flops for _, flops in of_attention),
        )

    def _bounds(
        self, spans: NDArray[np.float64], taken: NDArray[np.float64], attended_s: Sequence[float]
    ) -> tuple[dict[str, str], dict[str, float]]:
        """Return what each op waits for, and the seconds of all by that."""
        moments = self._moments
        numbers: NDArray[np.int64] = moments.bounds.copy()
        for places, spent in zip(moments.attended, attended_s, strict=True):
            numbers[places] = number_of(getattr(spent, "bound", Bound.LATENCY))
        if self.issue_s:  # not begun before it was issued
            numbers[(taken + self.gap_s < self.issue_s) & (spans > 2 * taken)] = number_of(
                Bound.DISPATCH
            )
        sums = np.bincount(numbers, weights=spans, minlength=len(BOUNDS))
        by_bound_s = {b.value: float(s) for b, s in zip(BOUNDS, sums, strict=True) if s > 0}
        bound_of = {}
        for name, of_name in moments.by_name.items():
            of_op = np.bincount(numbers[of_name], weights=spans[of_name], minlength=len(BOUNDS))
            bound_of[name] = BOUNDS[int(of_op.argmax())].value
        return bound_of, by_bound_s

    def spans_s(
        self, told: Told, attended_s: Sequence[float], factor: float
    ) -> list[tuple[Charge, float]]:
        """Return each charge that has a moment with its seconds, gap and waiting included."""
        spans = self._spans_s(told, self._taken_s(attended_s, factor)).tolist()
        charges = [charge for charge in self.charges if not isinstance(charge, Consumed)]
        return list(zip(charges, spans, strict=True))

    def _taken_s(self, attended_s: Sequence[float], factor: float) -> NDArray[np.float64]:
        """Return what each moment's op takes of its cores."""
        taken = self._moments.seconds.copy()
        for number, places in enumerate(self._moments.attended):
            taken[places] = attended_s[number]
        return array_in_ticks(taken * factor)

    def _spans_s(self, told: Told, taken: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return how long after the one before it each moment comes."""
        spans = np.diff(np.array(told.ends), prepend=0.0)
        spans[self._moments.parts] = taken[self._moments.parts]
        spans[self._moments.takes] = told.stalls
        return spans

    @cached_property
    def _moments(self) -> Moments:
        return Moments(self.charges, self.attentions)


def _in_ticks(charges: Sequence[Charge], costs: Costs) -> list[Charge]:
    """Return the charges in ticks; those that are one object stay one."""
    rate = costs.machine.link_bytes_per_s
    known = {id(charge): charge for charge in charges}
    made = {key: charge_in_ticks(charge, rate) for key, charge in known.items()}
    return [made[id(charge)] for charge in charges]


def _sum(values: NDArray[np.float64]) -> float:
    """Return a sum that is made from left to right."""
    return float(np.add.accumulate(values)[-1]) if len(values) else 0.0


def _rooms(sizes: Sequence[float], capacity: float) -> list[int]:
    """Return, for each weight, the last one before it that must leave the buffer first; or -1."""
    rooms = []
    for number, n_bytes in enumerate(sizes):
        held, room = n_bytes, -1
        for before in range(number - 1, -1, -1):
            held += sizes[before]
            if held > capacity:
                room = before
                break
        rooms.append(room)
    return rooms
