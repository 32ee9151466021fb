"""Device cost of formats on the mesh and machine that they are for, without values or ranks.

The figures are those of ``galaxy_mpi.estimate --optimizations FILE`` with a file that says so.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from galaxy_mpi.errors import ConfigError
from galaxy_mpi.json_values import JsonObject
from galaxy_mpi.models import Programs
from galaxy_mpi.studies.what_if import WhatIf
from galaxy_mpi.systems.settings import Setting
from galaxy_mpi.timing.bands import band
from galaxy_mpi.timing.budget import Budget
from galaxy_mpi.timing.estimator import Estimator

__all__ = ["Cost", "TargetClock"]


@dataclass(frozen=True)
class Cost:
    """What a decode step takes of one chip, and the time to first token; means over the steps."""

    decode_step_s: float
    time_to_first_token_s: float
    dram_bytes: float
    """Read and written by chip (0, 0) in a step."""
    link_bytes: dict[str, float]
    """Of the busiest link of each axis in a step, one direction."""
    weights_bytes: int
    """Held by a chip."""
    kv_cache_bytes: int
    """Held by a chip at the end of the run."""
    fits: bool
    """Whether a chip of the target has the memory."""

    def to_dict(self) -> JsonObject:
        """Return the figures of the report."""
        return dict(self.__dict__)


class TargetClock:
    """The clock of one model on one target.

    Parameters
    ----------
    what_if : WhatIf
        The run on the target; its own precision is not used.
    """

    def __init__(self, what_if: WhatIf) -> None:
        self.what_if = what_if
        conditions = replace(what_if.conditions, is_changed=True)
        self.margin = band("step", conditions).margin
        """Of the step, relative; as `galaxy_mpi.timing.bands` has it."""

    def cost(self, layers: Sequence[Setting]) -> Cost:
        """Return what formats cost.

        Parameters
        ----------
        layers : sequence of Setting
            One a layer.
        """
        what_if, known = self.what_if, self.what_if.programs
        system, machine = what_if.emulated_system, what_if.emulated_machine
        precision = what_if.wanted.of_layers(system, known.model, layers, "candidate")
        programs = Programs(
            known.model,
            known.asked_mesh,
            system,
            precision,
            users=what_if.n_users,
            layout_class=what_if.layout_class,
        )
        budget = Budget.of(programs, machine, what_if.longest + what_if.n_steps)
        fits = True
        try:
            budget.check(machine)
        except ConfigError:
            fits = False
        times = what_if.times(Estimator(programs, machine))
        figures, n_steps = times.to_dict(), len(times.step_s)
        return Cost(
            decode_step_s=figures["decode_step_s"],
            time_to_first_token_s=figures["time_to_first_token_s"],
            dram_bytes=times.steps.dram_bytes / n_steps,
            link_bytes=figures["link_bytes"],
            weights_bytes=budget.weights_bytes,
            kv_cache_bytes=budget.kv_cache_bytes,
            fits=fits,
        )
