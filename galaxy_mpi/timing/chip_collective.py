"""A collective of one group, as the clock of one of its chips sees it."""

from operator import add

import numpy as np
from numpy.typing import NDArray

from galaxy_mpi.program.charge import Cross
from galaxy_mpi.timing.machine import Machine

__all__ = ["Collective", "Member", "Times", "hop_delays", "near_delays"]

Times = NDArray[np.float64]


def hop_delays(machine: Machine, size: int) -> Times:
    """Return the seconds that a signal takes between any two members of a group of ``size``."""
    members = np.arange(size)
    apart = np.abs(members[:, None] - members[None, :])
    if machine.topology == "ring":
        apart = np.minimum(apart, size - apart)
    delays: Times = apart * machine.link_hop_s
    return delays


def near_delays(delays: Times) -> Times:
    """Return the delays of neighbours, and minus infinity for all other members."""
    if len(delays) == 1:
        return delays
    nearest = delays[delays > 0].min() if (delays > 0).any() else 0.0
    near: Times = np.where(delays <= nearest, delays, -np.inf)
    np.fill_diagonal(near, -np.inf)
    return near


Member = tuple[list[float], float, list[float], float, float, float]


class Collective:
    """A collective of one group.

    Parameters
    ----------
    cross : Cross
    delays : array
        From `hop_delays`.
    factors : array
        How much slower each member's ops are.
    wire_factor : float
        How much slower the group's slowest link is.
    index : int
        Of this chip.
    """

    def __init__(
        self, cross: Cross, delays: Times, factors: Times, wire_factor: float, index: int
    ) -> None:
        own_s: list[float] = (cross.own_s * factors).tolist()
        beside_s: list[float] = (cross.beside_s * factors).tolist()
        rows: list[list[float]] = (delays * cross.laps).tolist()
        near: list[list[float]] = near_delays(delays * cross.laps).tolist()
        block_s = (cross.wire_s if cross.block_s is None else cross.block_s) * wire_factor
        wire_s = cross.wire_s * wire_factor
        self.cross = cross
        self.members: list[Member] = [
            (far, block_s, close, wire_s, own, beside)
            for far, close, own, beside in zip(rows, near, own_s, beside_s, strict=True)
        ]
        """For each member: delays from all others, the last block, delays from neighbours, the
        whole wire, its own time, and concurrent work."""
        self.mine = self.members[index]
        self.index = index
        # If all enter at the same time, and none is slow.
        self.reach_s = max(max(rows[index]) + block_s, max(near[index]) + wire_s)

    def left_s(self, entries: list[float], index: int) -> float:
        """Return when a member continues, without the gap, given when all entered."""
        far, block_s, near, wire_s, own_s, beside_s = self.members[index]
        end: float = max(max(map(add, entries, far)) + block_s,
                         max(map(add, entries, near)) + wire_s) + own_s  # fmt: skip
        return max(end, entries[index] + beside_s)

    def left_alike_s(self, begin: float) -> float:
        """Return when this chip continues if all members enter when it does."""
        far, block_s, near, wire_s, own_s, beside_s = self.mine
        end = max(begin + max(far) + block_s, begin + max(near) + wire_s) + own_s
        return max(end, begin + beside_s)

    def waited_s(self, entries: list[float]) -> float:
        """Return how long this chip waits for others, beyond the delay of signals."""
        far, block_s, near, wire_s, *_ = self.mine
        begin = max(max(map(add, entries, far)) + block_s, max(map(add, entries, near)) + wire_s)
        usual_s = max(max(far) + block_s, max(near) + wire_s)
        waited_s: float = begin - entries[self.index] - usual_s
        return waited_s
