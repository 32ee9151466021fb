"""What decode and prefill share: programs bound to the chips of a process, watched and timed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np

from galaxy_mpi.arrays import F32, Array
from galaxy_mpi.ccl.algorithms import Algorithms
from galaxy_mpi.ccl.wire import Wire
from galaxy_mpi.engine.chips import Chips
from galaxy_mpi.engine.taps import MakeTap
from galaxy_mpi.engine.value_checks import Replicas, finite, finite_logits
from galaxy_mpi.errors import UserError
from galaxy_mpi.mesh.plane import Crossing
from galaxy_mpi.models.programs import Programs
from galaxy_mpi.prefetch import PrefetchStats
from galaxy_mpi.program import BoundProgram, Program, Tap, Timeline, Use, bind_program
from galaxy_mpi.program.bind_checks import difference, texts_of
from galaxy_mpi.systems import ChipBinder, WeightFeed

__all__ = [
    "MakeTap",
    "Mode",
    "ModeTotals",
    "Ready",
    "Watcher",
]


@dataclass
class ModeTotals:
    """Cost of a mode since the beginning of the run."""

    collectives_s: float = 0.0
    prefetch: PrefetchStats = field(default_factory=PrefetchStats)


class Ready(NamedTuple):
    """A bound program."""

    bound: BoundProgram
    inputs: list[dict[str, F32]]
    """Of each chip of the process."""

    def results(self, name: str) -> list[Array]:
        """Return a result's array on each chip, overwritten by the next run."""
        return self.bound.results(name)


class Watcher(Protocol):
    """Observes the values of every pass and step."""

    def tap(self, program: Program) -> Tap:
        """Return a tap for a program."""

    def start(self, mode: str) -> None:
        """Begin a pass or a step."""

    def end(self, program: Program) -> None:
        """End it; collective."""


class Mode:
    """What modes share: binding programs and running them.

    Parameters
    ----------
    chips : Chips
    programs : Programs
    taps : sequence of callable
        Each makes a tap, given the program.
    watchers : sequence of Watcher
    """

    def __init__(
        self,
        chips: Chips,
        programs: Programs,
        taps: Sequence[MakeTap],
        watchers: Sequence[Watcher],
    ) -> None:
        self.chips, self.programs = chips, programs
        checked: list[Watcher] = [Replicas(chips.mesh, chips.transport)] if chips.run.check else []
        self._watchers = [*checked, *watchers]
        looks = finite if chips.run.check else finite_logits
        self._taps = [looks, *(watcher.tap for watcher in self._watchers), *taps]
        self.system = programs.system
        self.totals = ModeTotals()
        self.note: Callable[[Crossing], None] | None = None
        self.check: Callable[[Program, Sequence[tuple[Use, Wire]]], None] | None = None
        """Checks what was bound, if device time is kept: `galaxy_mpi.timing.Estimator.check`."""
        self.timeline: Timeline | None = None

    def bind(self, program: Program, feeds: Sequence[WeightFeed], algorithms: Algorithms) -> Ready:
        """Bind a program to the chips of this process."""
        chips, taps = self.chips, tuple(make(program) for make in self._taps)
        shapes = {name: tensor.shape for name, tensor in program.inputs.items()}
        inputs = chips.new_inputs(shapes)
        binders = []
        for held, feed in zip(chips.held, feeds, strict=True):
            binders.append(
                ChipBinder(
                    chips.mesh,
                    chips.planes,
                    algorithms,
                    held.state,
                    feed,
                    pool=held.pool,
                    codecs=chips.codecs,
                    poisons=chips.run.check,
                    taps=taps,
                )
            )
        bound: BoundProgram | None = None
        error: UserError | None = None
        try:
            bound = bind_program(
                program, binders, inputs, chips.planes, note=self.note, timeline=self.timeline
            )
            if self.check is not None:
                self.check(program, binders[0].exchanged)
        except UserError as failure:
            error = failure
        chips.transport.agree(error)
        assert bound is not None
        self._check_alike(binders[0])
        return Ready(bound, inputs)

    def _check_alike(self, chip: ChipBinder) -> None:
        """Raise on all ranks if a chip makes other collectives than those of rank 0. Collective."""
        transport, mine = self.chips.transport, texts_of(chip.exchanged)
        other, its = transport.from_root(lambda: ((chip.row, chip.col), mine))
        transport.agree(difference((chip.row, chip.col), mine, other, its))

    def play(self, bound: BoundProgram) -> None:
        """Run a bound program once."""
        before = bound.crossings_s
        for watcher in self._watchers:
            watcher.start(bound.program.mode)
        with np.errstate(
            all="ignore"
        ):  # silu of a very negative gate overflows; logits are checked
            bound.run()
        for watcher in self._watchers:
            watcher.end(bound.program)
        self.totals.collectives_s += bound.crossings_s - before
