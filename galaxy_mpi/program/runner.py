"""Runs the programs of the chips of a process, in step.

Phase k of every chip, then the crossing behind it, once for the process. What comes out of binding is
one flat list of calls: nothing is looked up while it runs.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from galaxy_mpi.mesh import Axis
from galaxy_mpi.mesh.plane import Crossing, Plane
from galaxy_mpi.program.binder import Binder, Call
from galaxy_mpi.program.op import Program

__all__ = ["BoundProgram", "bind_program"]


class BoundProgram:
    """A program of all chips of a process, ready to run.

    Parameters
    ----------
    program : Program
    chips : sequence of Binder
        One a chip of this process, all bound.
    closing : sequence of Crossing
        Behind the last phase.
    """

    def __init__(
        self, program: Program, chips: Sequence[Binder], closing: Sequence[Crossing]
    ) -> None:
        self.program, self.chips = program, chips
        self.calls: list[Call] = []
        for phases in zip(*(chip.phases for chip in chips), strict=True):
            for phase in phases:
                self.calls += phase.calls
            # Chips of one process that cross together share the crossing.
            crossings = {id(p.crossing): p.crossing for p in phases if p.crossing is not None}
            self.calls += [(crossing, ()) for crossing in crossings.values()]
        self.calls += [(crossing, ()) for crossing in closing]

    @property
    def n_bytes(self) -> int:
        """Bytes of the arrays of all chips."""
        return sum(chip.pool.n_bytes for chip in self.chips)

    def run(self) -> None:
        """Run it once."""
        for call, arguments in self.calls:
            call(*arguments)

    def results(self, name: str) -> list[Any]:
        """Return the array of a result on each chip of this process."""
        return [chip.result(name) for chip in self.chips]


def bind_program(
    program: Program,
    chips: Sequence[Binder],
    inputs: Sequence[Mapping[str, Any]],
    planes: Mapping[Axis, Plane],
    around: Callable[[int, Binder], None] = lambda number, chip: None,
) -> BoundProgram:
    """Bind a program on the chips of a process.

    Parameters
    ----------
    program : Program
    chips : sequence of Binder
    inputs : sequence of mapping
        The arrays of `Program.inputs` of each chip.
    planes : mapping of Axis to Plane
    around : callable
        Called with (number, chip) before a chip binds the op of that number.
    """
    for plane in planes.values():
        plane.begin()
    for chip, arrays in zip(chips, inputs, strict=True):
        chip.begin(program, arrays)
    for number in range(len(program.uses)):
        for chip in chips:
            around(number, chip)
            chip.bind_use(number)
    for plane in planes.values():
        plane.end()
    closing = [crossing for plane in planes.values() for crossing in plane.closing()]
    return BoundProgram(program, chips, closing)
