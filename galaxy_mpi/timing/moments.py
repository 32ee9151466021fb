"""The moments of a program: ends of ops and of parts of them, waits for weights, collectives."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from galaxy_mpi.program.charge import Charge, Consumed, Cross, Kernel, Take
from galaxy_mpi.program.spent import Bound

__all__ = ["BOUNDS", "STALL", "Moments", "number_of"]

STALL = "prefetch_stall"
"""Name under which waits for weights are reported."""

BOUNDS = tuple(Bound)


class Moments:
    """The moments of a tape, as columns of a table.

    Parameters
    ----------
    charges : sequence of Charge
    attentions : sequence of Kernel
        Those whose time depends on positions.

    Attributes
    ----------
    seconds, cores : array
        What each takes of its cores, and of how many; 0 for attention.
    parts, takes : array of int
        Which are parts of an op, and which are waits for a weight.
    bounds : array of int
        What bounds each, as its place in `BOUNDS`.
    by_name : dict of str to array of int
        Which have a name.
    attended : list of list of int
        Which are of each attention.
    """

    def __init__(self, charges: Sequence[Charge], attentions: Sequence[Kernel]) -> None:
        numbers = {id(kernel): number for number, kernel in enumerate(attentions)}
        timed = [charge for charge in charges if not isinstance(charge, Consumed)]
        seconds, cores, parts, takes = [], [], [], []
        bounds: list[int] = []
        self.dram_bytes = self.flops = 0.0
        """Of all but attention."""
        by_name: dict[str, list[int]] = {}
        self.attended: list[list[int]] = [[] for _ in attentions]
        for place, charge in enumerate(timed):
            name, taken, on_cores, bound = STALL, 0.0, 0.0, Bound.DRAM
            spent: float = 0.0
            if isinstance(charge, Take):
                takes.append(place)
                self.dram_bytes += charge.n_bytes
            elif isinstance(charge, Cross):
                name, taken, on_cores = charge.name, charge.beside_s, charge.cores
                bound, spent = _bound_of_cross(charge), charge.beside_s
            else:
                name, on_cores = charge.name, charge.cores
                if callable(charge.seconds):
                    self.attended[numbers[id(charge)]].append(place)
                else:
                    taken = spent = charge.seconds
                    bound = getattr(spent, "bound", Bound.LATENCY)
                if not charge.has_gap:
                    parts.append(place)
            by_name.setdefault(name, []).append(place)
            self.dram_bytes += getattr(spent, "dram_bytes", 0.0)
            self.flops += getattr(spent, "flops", 0.0)
            bounds.append(number_of(bound))
            seconds.append(taken)
            cores.append(on_cores)
        self.seconds, self.cores = np.array(seconds, np.float64), np.array(cores, np.float64)
        self.parts, self.takes = np.array(parts, np.int64), np.array(takes, np.int64)
        self.bounds: NDArray[np.int64] = np.array(bounds, np.int64)
        self.by_name = {name: np.array(places) for name, places in by_name.items()}


def number_of(bound: Bound) -> int:
    """Return the place of a bound in `BOUNDS`."""
    return BOUNDS.index(bound)


def _bound_of_cross(cross: Cross) -> Bound:
    """Return what bounds a collective: the links, concurrent work, or latencies."""
    if cross.beside_s > cross.own_s + cross.wire_s:
        return Bound(getattr(cross.beside_s, "bound", Bound.FLOPS))
    return Bound.LINK if cross.wire_s > cross.own_s else Bound.LATENCY
