"""How long signals take between the members of a group."""

import numpy as np
from numpy.typing import NDArray

from galaxy_mpi.timing.machine import Machine
from galaxy_mpi.timing.ticks import array_in_ticks

__all__ = ["Seconds", "hop_delays", "near_delays"]

Seconds = NDArray[np.float64]


def hop_delays(machine: Machine, size: int, laps: float = 1) -> Seconds:
    """Return the seconds of ``laps`` signals between any two members of a group of ``size``."""
    members = np.arange(size)
    apart = np.abs(members[:, None] - members[None, :])
    if machine.topology == "ring":
        apart = np.minimum(apart, size - apart)
    return array_in_ticks(apart * (machine.link_hop_s * laps))


def near_delays(delays: Seconds) -> Seconds:
    """Return the delays of neighbours, and minus infinity for all other members."""
    if len(delays) == 1:
        return delays
    nearest = delays[delays > 0].min() if (delays > 0).any() else 0.0
    near: Seconds = np.where(delays <= nearest, delays, -np.inf)
    np.fill_diagonal(near, -np.inf)
    return near
