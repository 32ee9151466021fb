"""Steps and prompts of published runs on given machines, evaluated from few layers.

Steps and passes are evaluated with 2 and 4 layers and extrapolated linearly, because all layers
take the same time.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache

from galaxy_mpi.mesh import Mesh
from galaxy_mpi.models import Programs
from galaxy_mpi.models.presets import PRESETS
from galaxy_mpi.studies.asked_systems import sampled_on
from galaxy_mpi.studies.datum import GALAXY, Machines
from galaxy_mpi.studies.prompts import chunk_tokens, passes_of
from galaxy_mpi.systems import PRECISIONS, Precision, Wanted, system_of
from galaxy_mpi.timing import Machine
from galaxy_mpi.timing.costs import Costs
from galaxy_mpi.timing.estimator import Estimator

__all__ = ["LLAMA", "Run"]

_FEW, _MORE = 2, 4


@cache
def _programs(
    model: str,
    n_layers: int,
    mesh: str,
    system: str,
    precision: str | Precision,
    users: int,
    on_chip: bool = False,
) -> Programs:
    sizes, on = replace(PRESETS[model], n_layers=n_layers), Mesh.parse(mesh)
    emulated = system_of(system, on)
    if on_chip:
        emulated = sampled_on(emulated, "device")
    if isinstance(precision, str):  # it depends on the whole model's size
        precision = Wanted(precision).on(emulated, PRESETS[model])
    return Programs(sizes, on, emulated, precision, users=users)


@dataclass(frozen=True)
class Run:
    """One model on one system."""

    model: str
    machine: str
    mesh: str
    system: str
    precision: str | Precision
    """A name means what it means for the model."""
    users: int
    on_chip: bool = False

    def step_s(self, positions: Sequence[int], machines: Machines) -> float:
        """Return the mean time of decode steps."""
        return self._of_all_layers(machines, lambda estimator, cols: statistics.fmean(
            estimator.step_s([position] * cols) for position in positions
        ))  # fmt: skip

    def prefill_s(self, n_tokens: int, machines: Machines, start: int = 0) -> float:
        """Return the time to prefill one prompt with ``start`` cached tokens.

        The Galaxy prefills all of a prompt where that is faster than to attend to a cached part.
        """
        most = None
        if self.system != "galaxy":
            most = chunk_tokens(PRESETS[self.model], Mesh.parse(self.mesh).n_chips)
        shapes = passes_of(n_tokens, start, most)

        def seconds(estimator: Estimator, cols: int) -> float:
            return sum(estimator.prefill_s(shape) for shape in shapes)

        found = self._of_all_layers(machines, seconds)
        if start and most is None:
            return min(found, self.prefill_s(n_tokens, machines))
        return found

    def by_op_s(self, position: int, machine: Machine) -> tuple[dict[str, float], int]:
        """Return the times of a step's ops, of so many layers."""
        programs = self._programs(_FEW)
        estimator = Estimator(programs, machine)
        return estimator.step([position] * programs.mesh.cols).by_op_s, _FEW

    def roofline_s(self, rows: int, n_positions: int, machines: Machines) -> float:
        """Return the longer of all bytes over DRAM and all flops over the peak of all cores."""
        program = self._programs(_FEW)
        machine = machines[self.machine]
        n_bytes = flops_s = 0.0
        for use in program.decode().uses:
            share = PRESETS[self.model].n_layers / _FEW if use.layer >= 0 else 1.0
            for matrix in use.op.matrices():
                size = matrix.rows * matrix.columns
                n_bytes += share * size * matrix.dtype.tile_bytes / 1024
                peak = machine.prefill_cores * Costs(machine).flops_per_core_s(matrix.fidelity)
                flops_s += share * 2 * rows * size / peak
            n_bytes += share * use.op.cached_bytes() * n_positions
        return max(n_bytes / machine.dram_bytes_per_s, flops_s)

    def _programs(self, n_layers: int) -> Programs:
        return _programs(
            self.model, n_layers, self.mesh, self.system, self.precision, self.users, self.on_chip
        )

    def _of_all_layers(
        self, machines: Machines, seconds: Callable[[Estimator, int], float]
    ) -> float:
        found = []
        for number in (_FEW, _MORE):
            programs = self._programs(number)
            estimator = Estimator(programs, machines[self.machine])
            found.append(seconds(estimator, programs.mesh.cols))
        n_layers = PRESETS[self.model].n_layers
        return found[0] + (n_layers - _FEW) * (found[1] - found[0]) / (_MORE - _FEW)


LLAMA = Run("llama3-70b", GALAXY, "8x4", "galaxy", PRECISIONS["performance"], 32)
"""The run of the first calibration set."""
