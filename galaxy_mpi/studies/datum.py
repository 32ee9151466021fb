"""One published time together with a function that models it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from galaxy_mpi.timing import Machine

__all__ = ["GALAXY", "GROUPS", "LONG_FROM", "Datum", "Machines", "groups_of", "op_margin"]

GROUPS = ("machine", "length", "model", "system", "kind")

GALAXY = "wormhole_galaxy_6u"

LONG_FROM = 8192
"""Tokens from which steps and first tokens are kinds of their own: attention dominates them."""

Machines = Mapping[str, Machine]
"""By profile name."""


@dataclass(frozen=True)
class Datum:
    """One published time."""

    name: str
    seconds: float
    margin: float
    """Relative; from the target file, or the spread between runs."""
    model_s: Callable[[Machines], float]
    groups: Mapping[str, str]
    source: str
    compared: str = ""
    """Name of a set of which only the differences count; its common factor is removed."""
    is_fitted: bool = True
    """Whether constants are fitted to it. Link times are not: they are measured constants."""
    roofline_s: Callable[[Machines], float] | None = None
    """The longer of bytes over bandwidth and flops over peak."""
    mesh: str = "8x4"
    is_changed: bool = False
    """Whether it is of formats or a cached prefix that estimates do not have by default."""


def groups_of(machine: str, length: int, model: str, system: str, kind: str) -> dict[str, str]:
    """Return the groups of a time; long steps and first tokens are kinds of their own."""
    if length >= LONG_FROM and kind in ("step", "first token"):
        kind = f"long {kind}"
    return {"machine": machine, "length": str(length), "model": model, "system": system,
            "kind": kind}  # fmt: skip


def op_margin(name: str) -> float:
    """Return the margin of tt-metal's target file for an op."""
    if name in ("reduce_scatter_create_heads", "rotary", "silu_mul"):
        return 0.10
    if name in ("update_cache", "reshards", "typecasts", "top_k", "sampling"):
        return 0.20
    return 0.07 if name == "attention" else 0.05
