"""Device time is counted in ticks of 2**-44 s, a twentieth of a picosecond.

Sums of ticks up to 512 s are exact in double precision. They are therefore the same in any
order, and a clock may add up what does not depend on it beforehand, or compare two layers bit by
bit. A charge is rounded to a tick once, when a clock reads it.
"""

import numpy as np
from numpy.typing import NDArray

from galaxy_mpi.program.charge import Charge, Cross, Kernel
from galaxy_mpi.program.spent import Spent

__all__ = ["array_in_ticks", "charge_in_ticks", "in_ticks", "spent_in_ticks"]

TICKS_PER_S = 2.0**44

Seconds = NDArray[np.float64]


def in_ticks(seconds: float) -> float:
    """Return a time as the nearest number of ticks, in seconds.

    Examples
    --------
    >>> in_ticks(2.0**-44), in_ticks(0.6 * 2.0**-44) == 2.0**-44
    (5.684341886080802e-14, True)
    """
    return round(seconds * TICKS_PER_S) / TICKS_PER_S


def array_in_ticks(seconds: Seconds) -> Seconds:
    """Return times as the nearest numbers of ticks, in seconds."""
    rounded: Seconds = np.rint(seconds * TICKS_PER_S) / TICKS_PER_S
    return rounded


def spent_in_ticks(spent: float) -> float:
    """Return a time in ticks with what it was spent on, if it tells."""
    seconds = in_ticks(spent)
    if not isinstance(spent, Spent):
        return seconds
    return Spent(seconds, spent.bound, dram_bytes=spent.dram_bytes, flops=spent.flops)


def charge_in_ticks(charge: Charge, link_bytes_per_s: float) -> Charge:
    """Return a charge whose times are in ticks, and whose bytes stay.

    Parameters
    ----------
    charge : Charge
    link_bytes_per_s : float
        Of a link, to keep the bytes of a collective that has only their time.
    """
    if isinstance(charge, Kernel) and not callable(charge.seconds):
        return charge._replace(seconds=spent_in_ticks(charge.seconds))
    if isinstance(charge, Cross):
        n_bytes = charge.link_bytes
        return charge._replace(
            own_s=in_ticks(charge.own_s),
            wire_s=in_ticks(charge.wire_s),
            block_s=None if charge.block_s is None else in_ticks(charge.block_s),
            link_bytes=charge.wire_s * link_bytes_per_s if n_bytes is None else n_bytes,
            beside_s=spent_in_ticks(charge.beside_s),
        )
    return charge
