"""A program as text: phases, ops, tensors, messages, charges."""

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple

from galaxy_mpi.ccl.algorithms import Algorithms
from galaxy_mpi.mesh import Mesh
from galaxy_mpi.program import HEAD, Charge, Consumed, Cross, Kernel, Program, Take, Tensor, Use
from galaxy_mpi.timing.costs import Costs
from galaxy_mpi.timing.mesh_clock import MeshClock
from galaxy_mpi.timing.tape import Tape

__all__ = ["Listing"]

_WIDTH = 34


@dataclass
class _Listed:
    """An op with its charges."""

    use: Use
    phase: int
    """Phase in which it begins."""
    charges: list[tuple[Charge, float]] = field(default_factory=list)
    """Each with its seconds."""

    @property
    def seconds(self) -> float:
        """Device time of the op."""
        return sum(seconds for _, seconds in self.charges)

    @property
    def crossings(self) -> list[Cross]:
        """Its exchanges, except those that are sent together with the one before."""
        return [c for c, _ in self.charges if isinstance(c, Cross) and not c.rides]


class _OnOneHost(NamedTuple):
    """The members of a group, as a run on one host has them."""

    size: int
    shares_memory: bool = True


class Listing:
    """A program as lines of text.

    Parameters
    ----------
    program : Program
    costs : Costs
    mesh : Mesh
    algorithms : Algorithms
        How its collectives run on the host.
    positions : list of int
        Positions of a decode step, by column.
    """

    def __init__(
        self,
        program: Program,
        costs: Costs,
        mesh: Mesh,
        algorithms: Algorithms,
        positions: list[int],
    ) -> None:
        self._program, self._costs, self._mesh = program, costs, mesh
        self._algorithms = algorithms
        tape = Tape(program, costs)
        clock = MeshClock(tape, mesh)
        self.timing = clock.run(positions)
        spans, phase = iter(clock.spans_s()), 0
        self._ops: list[_Listed] = []
        for use in program.uses:
            op = _Listed(use, phase)
            for charge in use.op.priced(costs):
                op.charges.append((charge, 0.0) if isinstance(charge, Consumed) else next(spans))
            phase += len(op.crossings)
            self._ops.append(op)
        self.n_phases = phase + 1

    def lines(self, layer: int) -> Iterator[str]:
        """Yield one line per layer and one of the head; one of them in full.

        Parameters
        ----------
        layer : int
            The one in full; `HEAD` for the ops outside the layers.
        """
        yield f"{'phase':>5}  {'op, with its kernels and messages':<{_WIDTH}} {'device us':>9}"
        for number, ops in groupby(self._ops, key=lambda op: op.use.layer):
            listed = list(ops)
            yield self._heading(number, listed)
            if number == layer:
                for op in listed:
                    yield from self._op(op)

    def _heading(self, number: int, ops: list[_Listed]) -> str:
        name = "head" if number == HEAD else f"layer {number}"
        n_crossings, seconds = sum(len(op.crossings) for op in ops), sum(op.seconds for op in ops)
        return (
            f"{ops[0].phase:>5}  {name:<{_WIDTH}} {seconds * 1e6:>9.2f}  {len(ops)} ops, "
            f"{n_crossings} exchanges"
        )

    def _op(self, op: _Listed) -> Iterator[str]:
        use = op.use
        reads = ", ".join(filter(None, map(_read, use.inputs)))
        makes = ", ".join(f"{_last(t.name)} {t.shape}" for t in use.outputs)
        yield f"{op.phase:>5}  {use.op.name:<{_WIDTH}} {'':>9}  {type(use.op).__name__}"
        yield from _wrapped(f"{reads} -> {makes or 'KV cache'}", 9)
        for charge, seconds in op.charges:
            yield from self._charge(charge, seconds)

    def _charge(self, charge: Charge, seconds: float) -> Iterator[str]:
        if isinstance(charge, Take):
            name, what = "prefetch_stall", f"{charge.n_bytes:,.0f}-byte weight"
        elif isinstance(charge, Kernel):
            name, what = charge.name, f"{charge.cores:.0f} cores" if charge.cores else ""
        elif isinstance(charge, Cross):
            name, what = charge.name, ""
        else:
            return
        sign = "=" if isinstance(charge, Cross) else " "
        line = f"{'':<5} {sign} {name:<{_WIDTH - 1}} {seconds * 1e6:>9.2f}  {what}"
        yield line.rstrip()
        if isinstance(charge, Cross):
            yield from _wrapped(self._exchange(charge), 10)

    def _exchange(self, cross: Cross) -> str:
        wire = cross.wire
        if cross.rides:
            return f"{wire.kind.value} within a {wire.axis.group_name}: sent with the one before"
        members = _OnOneHost(self._mesh.size(wire.axis))
        alone = members.size == 1
        how = "alone" if alone else self._algorithms.words(wire, members)
        beside = f", {cross.cores:.0f} cores work meanwhile" if cross.beside_s else ""
        n_bytes = f"{wire.sent_bytes:,} bytes"
        if wire.n_bytes != wire.sent_bytes:
            n_bytes += f", {wire.n_bytes:,} on the device"
        return f"{wire}: {n_bytes}; {how}{beside}"


def _wrapped(text: str, indent: int) -> list[str]:
    space = " " * indent
    return textwrap.wrap(text, 80, initial_indent=space, subsequent_indent=f"{space}  ")


def _read(value: object) -> str:
    """Return the inputs of an op as text: tensors with shape, weights by name."""
    if isinstance(value, Tensor):
        return f"{_last(value.name)} {value.shape}"
    if isinstance(value, tuple):
        name = getattr(value, "name", None)
        return str(name) if name else ", ".join(filter(None, map(_read, value)))
    return ""


def _last(name: str) -> str:
    return name.rpartition(".")[2]
