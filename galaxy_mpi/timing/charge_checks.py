"""Checks of what the ops of a program charge, before any clock plays it."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import fields

from galaxy_mpi.ccl.wire import Kind, Wire
from galaxy_mpi.errors import ProgramError
from galaxy_mpi.mesh import Axis, Mesh
from galaxy_mpi.output import plural
from galaxy_mpi.program.charge import Charge, Consumed, Cross, Kernel, Take
from galaxy_mpi.program.op import Use

__all__ = ["check_exchanged", "check_rides", "check_seconds"]


def check_exchanged(
    charges: Sequence[tuple[Use, Charge]], exchanged: Sequence[tuple[Use, Wire]], mesh: Mesh
) -> None:
    """Raise if the charged collectives are not those that were bound, in the same order.

    Slabs of a long tensor are one exchange. A collective that rides is sent with the one before
    it. The emulator may exchange what the device does not: in an op without any charge, or by
    `Op.free_wires`.

    Parameters
    ----------
    charges : sequence of (Use, Charge)
    exchanged : sequence of (Use, Wire)
        As `Binder.exchanged` has them.
    mesh : Mesh

    Raises
    ------
    ProgramError
    """
    crosses = [(use, charge) for use, charge in charges if isinstance(charge, Cross)]
    charged = Counter(_identity(use, cross.wire) for use, cross in crosses)
    n_bound = Counter(_identity(use, wire) for use, wire in exchanged)
    sent = [(use, wire) for use, wire in exchanged if mesh.size(wire.axis) > 1]
    for use, wire in exchanged:
        one = _identity(use, wire)
        if 0 < charged[one] < n_bound[one]:
            raise ProgramError(
                f"{use} exchanges {wire} {plural(n_bound[one], 'time')}, but charges device "
                f"time for {charged[one]}; fix the op, whose `bind` and `charges` must agree"
            )
    found = [(use, wire) for use, wire in exchanged if _identity(use, wire) in charged]
    expected = [(use, cross.wire) for use, cross in crosses if not cross.rides]
    for number, (use, wire) in enumerate(expected):
        if number >= len(found) or _identity(*found[number]) != _identity(use, wire):
            raise ProgramError(
                f"{use} charges device time for {wire}, but its `bind` does not exchange that, or "
                f"not in this order; fix the op, whose `bind` and `charges` must agree"
            )
        bound = found[number][1]
        if bound != wire:
            raise ProgramError(
                f"{use} exchanges {_told(bound, wire)}, but charges device time for "
                f"{_told(wire, bound)}; fix the op, whose `bind` and `charges` must agree"
            )
    if len(found) > len(expected):
        raise ProgramError(
            "an op exchanges what device time charges as sent along with another collective; "
            "fix the op, whose `bind` and `charges` must agree"
        )
    timed = {id(use) for use, _ in charges}
    for use, wire in sent:
        is_free = id(use) not in timed or wire in use.op.free_wires()
        if not is_free and not charged[_identity(use, wire)]:
            raise ProgramError(
                f"{use} exchanges {wire}, but charges no device time for it; fix the op, whose "
                f"`bind` and `charges` must agree, or return it from its `free_wires`"
            )


def _told(wire: Wire, other: Wire) -> str:
    """Return the text of a wire, and in what it differs from another if their texts are equal."""
    names = [f.name for f in fields(Wire) if getattr(wire, f.name) != getattr(other, f.name)]
    more = [f"{name} {getattr(wire, name)}" for name in names if str(wire) == str(other)]
    return ", ".join([str(wire), *more])


def _identity(use: Use, wire: Wire) -> tuple[int, str, Axis, Kind]:
    return id(use), wire.key, wire.axis, wire.kind


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
            spent = charge.own_s, charge.wire_s, charge.beside_s, charge.block_s or 0.0
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
