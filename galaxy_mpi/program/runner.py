"""Run the programs of the chips of a process in lockstep.

Phase k of every chip, then the crossing after it, once per process. Binding produces one flat list
of calls, so nothing is looked up while it runs.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import length_hint
from typing import Protocol, cast

import numpy as np

from galaxy_mpi.arrays import Array
from galaxy_mpi.errors import ValuesError
from galaxy_mpi.mesh import Axis
from galaxy_mpi.mesh.local_plane import LocalCrossing
from galaxy_mpi.mesh.plane import Crossing, Plane, TimedCrossing
from galaxy_mpi.program.bind_checks import check_alike
from galaxy_mpi.program.binder import Binder, Call, Phase
from galaxy_mpi.program.op import Program, Use

__all__ = ["BoundProgram", "Timeline", "bind_program"]


class Timeline(Protocol):
    """Notes when a process is busy with what, in host time."""

    def working(self, rank: int, use: Use | None) -> None:
        """Note that a chip begins with an op, or has ended what it does up to a crossing."""

    def crossed(self, ranks: Sequence[int], use: Use | None, axis: Axis, began: float) -> None:
        """Note that chips have crossed, ``began`` being when they entered."""


class BoundProgram:
    """A program of all chips of a process, ready to run.

    Parameters
    ----------
    program : Program
    chips : sequence of Binder
        One per chip of this process, all bound.
    planes : sequence of Plane
        The planes that their collectives are bound to.
    note : callable, optional
        Called with each crossing before it is crossed.
    timeline : Timeline, optional

    Attributes
    ----------
    calls : list of Call
        All calls, in order.
    """

    def __init__(
        self,
        program: Program,
        chips: Sequence[Binder],
        planes: Sequence[Plane],
        note: Callable[[Crossing], None] | None = None,
        timeline: Timeline | None = None,
    ) -> None:
        self._timeline = timeline
        self.program, self.chips, self._note = program, chips, note
        self.calls: list[Call] = []
        self._crossings_s = [0.0]
        self._n_runs = 0
        self._starts: list[tuple[int, Binder, Phase]] = []
        """Where in ``calls`` each phase of each chip begins."""
        for phases in zip(*(chip.phases for chip in chips), strict=True):
            for chip, phase in zip(chips, phases, strict=True):
                self._starts.append((len(self.calls), chip, phase))
                self.calls += self._calls_of(chip, phase)
            # Chips of one process that cross together share the crossing.
            crossings = {id(p.crossing): p.crossing for p in phases if p.crossing is not None}
            if timeline is None:
                self._add(crossings.values())
            else:
                self._add_noted(crossings.values(), phases)
        self._bound = [(plane, plane.end()) for plane in planes]
        self._add(crossing for plane in planes for crossing in plane.closing())

    @property
    def n_bytes(self) -> int:
        """Bytes of the arrays of all chips."""
        return sum(chip.pool.n_bytes for chip in self.chips)

    @property
    def crossings_s(self) -> float:
        """Seconds of host time that all runs spent in crossings."""
        return self._crossings_s[0]

    def run(self) -> None:
        """Run it once.

        Raises
        ------
        ValuesError
            If a computed value is invalid.
        """
        if self._n_runs == 1:  # one that runs only once need not be fast
            self.calls = _with_shared_arguments(self.calls)
        self._n_runs += 1
        calls = iter(self.calls)
        try:
            for call, arguments in calls:
                call(*arguments)
        except ValuesError as error:
            raise ValuesError(f"{self._where(length_hint(calls))}: {error}") from error
        except Exception as error:
            if hasattr(error, "add_note"):  # Python 3.11
                error.add_note(f"while running {self._where(length_hint(calls))}")
            raise

    def results(self, name: str) -> list[Array]:
        """Return the array of a result on each chip of this process.

        Overwritten by the next run.
        """
        return [chip.result(name) for chip in self.chips]

    def _where(self, n_left: int) -> str:
        """Return which op of which chip added the call before the last ``n_left``."""
        number = len(self.calls) - n_left - 1
        start, chip, phase = next(of for of in reversed(self._starts) if of[0] <= number)
        calls = list(self._calls_of(chip, phase))[: number - start + 1]
        if len(calls) <= number - start:
            return "a crossing"
        tells = None if self._timeline is None else self._timeline.working
        n_own = sum(call != tells for call, _ in calls)
        return f"{phase.use_of(n_own - 1)}, chip ({chip.row}, {chip.col})"

    def _calls_of(self, chip: Binder, phase: Phase) -> Iterable[Call]:
        """Return the calls of a phase, with those that tell the timeline."""
        return phase.calls if self._timeline is None else _marked(phase, chip, self._timeline)

    def crossing_call(self, crossing: Crossing) -> Call:
        """Return the call that crosses and adds to `crossings_s`."""
        # There are so many: asking a protocol with `isinstance` takes 30 us.
        if hasattr(crossing, "timed"):
            return cast(TimedCrossing, crossing).timed(self._crossings_s)
        return self._cross, (crossing,)

    def free(self) -> None:
        """Release what the planes keep for it. It cannot run afterwards."""
        for plane, bound in self._bound:
            plane.release(bound)

    def _add(self, crossings: Iterable[Crossing]) -> None:
        for crossing in crossings:
            if not isinstance(crossing, LocalCrossing):
                if self._note is not None:
                    self.calls.append((self._note, (crossing,)))
                self.calls.append(self.crossing_call(crossing))

    def _add_noted(self, crossings: Iterable[Crossing], phases: Sequence[Phase]) -> None:
        """Add crossings that are recorded in the timeline."""
        for crossing in crossings:
            if isinstance(crossing, LocalCrossing):
                continue
            if self._note is not None:
                self.calls.append((self._note, (crossing,)))
            of_chips = [
                (chip, phase)
                for chip, phase in zip(self.chips, phases, strict=True)
                if phase.crossing is crossing
            ]
            chip, phase = of_chips[0]
            ranks = [chip.rank for chip, _ in of_chips]
            use, axis = phase.use_of(len(phase.calls)), chip.axis_of(crossing.label)
            about = (self.crossing_call(crossing), ranks, use, axis)
            self.calls.append((self._cross_noted, about))

    def _cross_noted(self, cross: Call, ranks: Sequence[int], use: Use | None, axis: Axis) -> None:
        assert self._timeline is not None
        call, arguments = cross
        began = time.perf_counter()
        call(*arguments)
        self._timeline.crossed(ranks, use, axis, began)

    def _cross(self, crossing: Crossing) -> None:
        began = time.perf_counter()
        crossing()
        self._crossings_s[0] += time.perf_counter() - began


def _with_shared_arguments(calls: Sequence[Call]) -> list[Call]:
    """Return the same calls; those that have equal arguments share them.

    Layers use the same memory again, each through array objects of its own. 32 processes of some
    thousand such objects do not fit in the processors' caches; what they share does.
    """
    known: dict[object, object] = {}
    known_calls: dict[tuple[object, ...], Call] = {}

    def shared(value: object) -> object:
        if type(value) is np.ndarray:
            about = value.__array_interface__
            kind = value.dtype, value.flags.writeable
            return known.setdefault((about["data"], value.shape, value.strides, kind), value)
        if isinstance(value, np.float32):
            return known.setdefault(value.tobytes(), value)
        return value

    found = []
    for call, arguments in calls:
        equal = tuple(map(shared, arguments))
        found.append(known_calls.setdefault((call, *map(id, equal)), (call, equal)))
    return found


def _marked(phase: Phase, chip: Binder, timeline: Timeline) -> Iterable[Call]:
    """Yield the calls of a phase, and before those of each op what tells the timeline."""
    begins = {number: use for number, use in phase.begins if number < len(phase.calls)}
    for number, call in enumerate(phase.calls):
        if number in begins:
            yield timeline.working, (chip.rank, begins[number])
        yield call
    if phase.calls:
        yield timeline.working, (chip.rank, None)


def bind_program(
    program: Program,
    chips: Sequence[Binder],
    inputs: Sequence[Mapping[str, Array]],
    planes: Mapping[Axis, Plane],
    around: Callable[[int, Binder], None] = lambda number, chip: None,
    note: Callable[[Crossing], None] | None = None,
    timeline: Timeline | None = None,
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
    note : callable, optional
        Called with each crossing before it is crossed.
    timeline : Timeline, optional
    """
    for plane in planes.values():
        plane.begin()
    for chip, arrays in zip(chips, inputs, strict=True):
        chip.begin(program, arrays)
    for number in range(len(program.uses)):
        n_exchanged = len(chips[0].exchanged)
        for chip in chips:
            around(number, chip)
            chip.bind_use(number)
        check_alike(chips, n_exchanged)
    bound = BoundProgram(program, chips, list(planes.values()), note, timeline)
    for chip in chips:
        chip.pool.give_back_all()
    return bound
