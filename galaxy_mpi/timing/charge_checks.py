"""Checks of what the ops of a program charge, before any clock plays it."""

import math
from collections import Counter
from collections.abc import Sequence
from numbers import Real

from galaxy_mpi.ccl.wire import Kind, Wire
from galaxy_mpi.errors import ProgramError
from galaxy_mpi.mesh import Axis, Mesh
from galaxy_mpi.output import plural
from galaxy_mpi.program.charge import Charge, Consumed, Cross, Kernel, Take
from galaxy_mpi.program.op import Use

__all__ = ["check_charges", "check_exchanged", "check_rides"]


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
                f"{use} exchanges {bound.told_from(wire)}, but charges device time for "
                f"{wire.told_from(bound)}; fix the op, whose `bind` and `charges` must agree"
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


def _identity(use: Use, wire: Wire) -> tuple[int, str, Axis, Kind]:
    return id(use), wire.key, wire.axis, wire.kind


def check_charges(charged: Sequence[tuple[Use, Charge]]) -> None:
    """Raise if an op charges what is no charge, or no time: it would spread to all figures.

    Raises
    ------
    ProgramError
        It names the op, the charge and what is wrong with it.
    """
    known: set[int] = set()
    taken: list[Use] = []
    for use, charge in charged:
        if id(charge) not in known:
            known.add(id(charge))
            _check_charge(use, charge)
        if isinstance(charge, Take):
            taken.append(use)
        elif isinstance(charge, Consumed):
            if not taken:
                raise ProgramError(f"{use} charges Consumed for a weight that no Take charged")
            taken.pop()
    if taken:
        raise ProgramError(
            f"{taken[-1]} charges Take for a weight that no Consumed releases; it would stay in "
            f"the circular buffer"
        )


def _check_charge(use: Use, charge: object) -> None:
    if not isinstance(charge, Charge):
        raise ProgramError(
            f"{use} charges {charge!r}, which is none of Kernel, Cross, Take, Consumed; a helper "
            f"that returns one charge is yielded with `yield`, one that returns several with "
            f"`yield from`"
        )
    name = getattr(charge, "name", "a weight")
    amounts: dict[str, object] = {}
    if isinstance(charge, Kernel):
        amounts = {"cores": charge.cores}
        if not callable(charge.seconds):
            amounts["seconds"] = charge.seconds
    elif isinstance(charge, Cross):
        amounts = {n: getattr(charge, n) for n in ("own_s", "wire_s", "beside_s", "laps", "cores")}
        amounts["block_s"], amounts["link_bytes"] = charge.block_s or 0.0, charge.link_bytes or 0.0
        if not isinstance(charge.wire, Wire):
            raise ProgramError(f"{use} charges {name} with wire {charge.wire!r}, which is no Wire")
    elif isinstance(charge, Take):
        amounts = {"n_bytes": charge.n_bytes}
    if not isinstance(name, str):
        raise ProgramError(f"{use} charges something with name {name!r}, which is no text")
    for what, amount in amounts.items():
        if not isinstance(amount, Real) or not 0 <= float(amount) < math.inf:
            raise ProgramError(
                f"{use} charges {name} with {what} {amount!r}; its `charges` must yield times, "
                f"bytes and cores that are finite and at least 0"
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
