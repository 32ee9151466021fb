"""Checks of what the ops of a program charge, before any clock plays it."""

import math
from collections.abc import Sequence

from galaxy_mpi.errors import ProgramError
from galaxy_mpi.program.charge import Charge, Consumed, Cross, Kernel, Take
from galaxy_mpi.program.op import Use

__all__ = ["check_rides", "check_seconds"]


def check_seconds(charged: Sequence[tuple[Use, Charge]]) -> None:
    """Raise if an op charges what is no time: it would spread to all figures.

    Raises
    ------
    ProgramError
        It names the op, the charge and the number.
    """
    for use, charge in charged:
        spent: tuple[float, ...] = ()
        if isinstance(charge, Kernel):
            spent = () if callable(charge.seconds) else (charge.seconds,)
        elif isinstance(charge, Cross):
            spent = charge.own_s, charge.wire_s, charge.beside_s
        elif isinstance(charge, Take):
            spent = (charge.n_bytes,)
        for seconds in spent:
            if not 0 <= seconds < math.inf:
                name = getattr(charge, "name", "a weight")
                raise ProgramError(
                    f"{use} charges {name} with {seconds}; its `charges` must yield finite times "
                    f"and bytes of at least 0"
                )


def check_rides(charges: Sequence[Charge]) -> None:
    """Raise if something that takes time comes before a collective that rides."""
    before: Charge | None = None
    for charge in charges:
        if isinstance(charge, Cross) and charge.rides:
            rides = isinstance(before, Cross) and before.wire.axis is charge.wire.axis
            assert rides, f"{charge.name} rides, but not behind a collective of its axis"
        if not isinstance(charge, Consumed):
            before = charge
