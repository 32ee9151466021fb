"""The decode step that a page shows, played on all chips."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from galaxy_mpi.mesh import Mesh
from galaxy_mpi.program import HEAD
from galaxy_mpi.timing import Machine, Slowness
from galaxy_mpi.timing.estimator import Estimator
from galaxy_mpi.timing.step_record import ChipShares, StepRecord
from galaxy_mpi.timing.times import Timing

__all__ = ["ShownStep"]


@dataclass(frozen=True)
class ShownStep:
    """One step of the device clock, with what it was about."""

    estimator: Estimator
    positions: Sequence[int]
    """The longest user's in each column; -1 for a column without users."""
    slowness: Slowness
    """On the working mesh."""
    name: str
    """``decode step 4 of 31``"""

    @cached_property
    def _played(self) -> tuple[Timing, StepRecord]:
        return self.estimator.record(self.positions)

    @property
    def timing(self) -> Timing:
        """Of the step."""
        return self._played[0]

    @property
    def record(self) -> StepRecord:
        """What every chip does in it."""
        return self._played[1]

    @property
    def mesh(self) -> Mesh:
        """The mesh as the system works on it."""
        return self.estimator.programs.mesh

    @property
    def machine(self) -> Machine:
        """As the system uses it."""
        return self.estimator.machine

    @cached_property
    def shares(self) -> ChipShares:
        """How each chip spends it."""
        return self.record.shares(self.timing.seconds)

    @property
    def layer(self) -> int:
        """The layer that is shown by itself: one from the middle, which is like most."""
        layers = self.record.layers
        return layers[len(layers) // 2] if layers else HEAD
