"""Collectives as programs of one op, on all chips of a mesh in this process."""

from collections.abc import Callable
from typing import Any

import numpy as np

from galaxy_mpi.ccl.wire import Kind, Wire
from galaxy_mpi.mesh import Axis, Mesh
from galaxy_mpi.mesh.local_plane import LocalPlane
from galaxy_mpi.program import Binder, BoundProgram, Op, Program, bind_program

BindTo = Callable[..., Any]


class Exchange(Op):
    """An op that writes its input to a collective and keeps a copy of what comes out, by chip."""

    def __init__(self, bind: BindTo) -> None:
        super().__init__("exchange")
        self._bind = bind
        self.results: dict[int, np.ndarray] = {}

    def charges(self, costs):
        return iter(())

    def bind(self, chip, values):
        bound = self._bind(chip)
        chip.call(np.copyto, bound.term, values)
        result = bound.cross()
        self.results[chip.rank] = np.empty(result.shape, result.dtype)
        chip.call(np.copyto, self.results[chip.rank], result)


def program_of(binds: list[BindTo], shape: tuple[int, ...]) -> Program:
    """Return a program of collectives, all with the same input; see `results`."""
    program = Program()
    values = program.input("values", *shape)
    for bind in binds:
        Exchange(bind).record(program, (values,))
    return program


def results(bound: BoundProgram, number: int) -> list[np.ndarray]:
    """Return what came out of a collective of `program_of` on each chip of this process."""
    op = bound.program.uses[number].op
    assert isinstance(op, Exchange)
    return [op.results[chip.rank] for chip in bound.chips]


def bound_on(mesh: Mesh, binds: list[BindTo], terms: list[np.ndarray], **more) -> BoundProgram:
    """Return a program bound on all chips of a mesh; ``terms`` by rank."""
    planes = {axis: LocalPlane(mesh, axis) for axis in Axis}
    chips = [Binder(mesh, rank, planes, None, **more) for rank in range(mesh.n_chips)]
    program = program_of(binds, terms[0].shape)
    return bind_program(program, chips, [{"values": term} for term in terms], planes)


def on_a_row(size: int, bind: BindTo, terms: list[np.ndarray], **more) -> list[np.ndarray]:
    """Run one collective within a row of a 1 x size mesh; return the result of each chip."""
    bound = bound_on(Mesh(1, size), [bind], terms, **more)
    bound.run()
    return results(bound, 0)


def wire_of(
    kind: Kind, dtype, sent: tuple[int, ...], axis: Axis = Axis.ROW, *, key: str = "TEST"
) -> Wire:
    """Return a wire of a collective, over a row unless said otherwise."""
    return Wire(key, axis, kind, dtype, sent)
