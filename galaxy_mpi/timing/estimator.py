"""Device time without weights, values or ranks: all chips in one process."""

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from galaxy_mpi.ccl.wire import Wire
from galaxy_mpi.dtypes import padded
from galaxy_mpi.mesh import Mesh
from galaxy_mpi.program.op import Program, Use
from galaxy_mpi.timing.costs import Costs
from galaxy_mpi.timing.machine import Machine
from galaxy_mpi.timing.mesh_clock import MeshClock
from galaxy_mpi.timing.slowness import Slowness
from galaxy_mpi.timing.step_record import StepRecord
from galaxy_mpi.timing.step_table import StepTable
from galaxy_mpi.timing.tape import Tape
from galaxy_mpi.timing.times import DeviceTimes, Peaks, Timing
from galaxy_mpi.timing.trace import Trace

if TYPE_CHECKING:
    from galaxy_mpi.systems.prefill_pass import PassShape

__all__ = ["Estimator", "ProgramSource"]


MOST_KNOWN = 1024
"""Times of passes and steps that are kept, a few kilobytes each."""


class ProgramSource(Protocol):
    """Source of programs: `galaxy_mpi.models.Programs`."""

    mesh: Mesh

    @property
    def n_layers(self) -> int:
        """Layers of the model."""

    def on(self, machine: Machine) -> Machine:
        """Return the machine as the system uses it."""

    def decode(self) -> Program:
        """Return the program of a decode step."""

    def prefill(self, work: "PassShape", /) -> Program:
        """Return the program of a pass of a shape."""


class Estimator:
    """Device time of one model on one machine.

    Every pass and step is timed from a common start of all chips, because sampling synchronises
    them. Its time therefore depends only on its shape or positions, and is cached by these.

    Parameters
    ----------
    programs : ProgramSource
    machine : Machine
    circular_buffer_bytes : float, optional
        Device bytes; the machine's by default.
    slowness : Slowness, optional
        Slow chips and links.
    notes_waits : bool
        As in `MeshClock`.

    Attributes
    ----------
    machine : Machine
        As the system uses it.
    """

    def __init__(
        self,
        programs: ProgramSource,
        machine: Machine,
        *,
        circular_buffer_bytes: float | None = None,
        slowness: Slowness | None = None,
        notes_waits: bool = False,
    ) -> None:
        self.programs, self.machine = programs, programs.on(machine)
        self._costs = Costs(self.machine)
        self._capacity, self._slowness = circular_buffer_bytes, slowness
        self._notes_waits = notes_waits
        self._decode: MeshClock | None = None
        self._known: dict[object, Timing] = {}

    def times(self) -> DeviceTimes:
        """Return an empty record of the times of a run."""
        return DeviceTimes(self.programs.n_layers, Peaks.of(self.machine))

    def prefill(self, work: "PassShape", trace: Trace | None = None) -> Timing:
        """Return the time of a pass; with a trace it is re-evaluated.

        Parameters
        ----------
        work : galaxy_mpi.systems.PassShape
        trace : Trace, optional
        """
        what = "pass", work.on_device
        if trace is None and what in self._known:
            return self._known[what]
        return self._keep(what, self._clock(self.programs.prefill(work)).run((), trace))

    def step(self, positions: Sequence[int], trace: Trace | None = None) -> Timing:
        """Return the time of a decode step; with a trace it is re-evaluated.

        Parameters
        ----------
        positions : sequence of int
            The longest user's position in each column; -1 for a column without users.
        trace : Trace, optional
        """
        # Attention time changes only with the number of tiles of positions.
        what = tuple(padded(position + 1) for position in positions)
        if trace is None and what in self._known:
            return self._known[what]
        if self._decode is None:
            self._decode = self._clock(self.programs.decode())
        return self._keep(what, self._decode.run(positions, trace))

    @cached_property
    def step_table(self) -> StepTable:
        """Costs of steps for simulations with very many; seconds equal those of `step`."""
        tape = self._tape_of(self.programs.decode())
        return StepTable(tape, self.programs.mesh, self._slowness)

    def record(self, positions: Sequence[int]) -> tuple[Timing, StepRecord]:
        """Return the time of a decode step, and all that every chip does in it.

        Parameters
        ----------
        positions : sequence of int
            As in `step`.
        """
        return self._clock(self.programs.decode()).record(positions)

    def check(self, program: Program, exchanged: Sequence[tuple[Use, Wire]]) -> None:
        """Raise if the collectives that a program charges are not those that it bound.

        Parameters
        ----------
        program : Program
        exchanged : sequence of (Use, Wire)
            As `Binder.exchanged` has them.

        Raises
        ------
        CollectiveError
        """
        self._tape_of(program).check(exchanged, self.programs.mesh)

    def step_s(self, positions: Sequence[int]) -> float:
        """Return only the seconds of a step, for fits that need many."""
        if self._decode is None:
            self._decode = self._clock(self.programs.decode())
        return self._decode.run_s(positions)

    def prefill_s(self, work: "PassShape") -> float:
        """Return only the seconds of a pass."""
        return self._clock(self.programs.prefill(work)).run_s()

    @property
    def n_buffers(self) -> int:
        """Buffers that a decode step allocates, unless the system keeps them."""
        crossed = self._tape_of(self.programs.decode()).crosses
        return sum(not cross.rides for cross in crossed)

    def _keep(self, what: object, timing: Timing) -> Timing:
        if len(self._known) >= MOST_KNOWN:  # a run may last for days
            self._known.clear()
        self._known[what] = timing
        return timing

    def _clock(self, program: Program) -> MeshClock:
        return MeshClock(
            self._tape_of(program),
            self.programs.mesh,
            self._slowness,
            notes_waits=self._notes_waits,
        )

    def _tape_of(self, program: Program) -> Tape:
        return Tape(program, self._costs, self._capacity)
