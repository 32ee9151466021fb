"""Runs the programs of the chips of a process, in step.

Phase k of every chip, then the crossing behind it, once for the process. What comes out of binding
is one flat list of calls: nothing is looked up while it runs.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from galaxy_mpi.errors import ValuesError
from galaxy_mpi.mesh import Axis
from galaxy_mpi.mesh.local_plane import LocalCrossing
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
    planes : sequence of Plane
        To which their collectives are bound.

    Attributes
    ----------
    calls : list of Call
        Everything, in order.
    crossings_s : float
        Seconds of host time that all runs spent in crossings.
    """

    def __init__(self, program: Program, chips: Sequence[Binder], planes: Sequence[Plane]) -> None:
        self.program, self.chips = program, chips
        self.calls: list[Call] = []
        self.crossings_s = 0.0
        for phases in zip(*(chip.phases for chip in chips), strict=True):
            for phase in phases:
                self.calls += phase.calls
            # Chips of one process that cross together share the crossing.
            crossings = {id(p.crossing): p.crossing for p in phases if p.crossing is not None}
            self._add(crossings.values())
        self._bound = [(plane, plane.end()) for plane in planes]
        self._add(crossing for plane in planes for crossing in plane.closing())

    @property
    def n_bytes(self) -> int:
        """Bytes of the arrays of all chips."""
        return sum(chip.pool.n_bytes for chip in self.chips)

    def run(self) -> None:
        """Run it once.

        Raises
        ------
        ValuesError
            If what was computed cannot be right.
        """
        try:
            for call, arguments in self.calls:
                call(*arguments)
        except ValuesError as error:
            raise ValuesError(f"{self._where(call, arguments)}: {error}") from error
        except Exception as error:
            if hasattr(error, "add_note"):  # Python 3.11
                error.add_note(f"while running {self._where(call, arguments)}")
            raise

    def results(self, name: str) -> list[Any]:
        """Return the array of a result on each chip of this process.

        Overwritten by the next run.
        """
        return [chip.result(name) for chip in self.chips]

    def _where(self, call: Callable[..., Any], arguments: tuple[Any, ...]) -> str:
        """Return which op of which chip added a call: the calls themselves do not know."""
        for phases in zip(*(chip.phases for chip in self.chips), strict=True):
            for chip, phase in zip(self.chips, phases, strict=True):
                for number, (other, its) in enumerate(phase.calls):
                    if other is call and its is arguments:
                        return f"{phase.use_of(number)}, chip ({chip.row}, {chip.col})"
        return "a crossing"

    def free(self) -> None:
        """Give back what the planes keep for it. It cannot run afterwards."""
        for plane, bound in self._bound:
            plane.release(bound)

    def _add(self, crossings: Iterable[Crossing]) -> None:
        for crossing in crossings:
            if not isinstance(crossing, LocalCrossing):
                self.calls.append((self._cross, (crossing,)))

    def _cross(self, crossing: Crossing) -> None:
        began = time.perf_counter()
        crossing()
        self.crossings_s += time.perf_counter() - began


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
    bound = BoundProgram(program, chips, list(planes.values()))
    for chip in chips:
        chip.pool.give_back_all()
    return bound
