"""Device time in a run: each chip keeps its own clock, time stamps travel with the data."""

from collections.abc import Sequence
from typing import Any

from galaxy_mpi.config import RunConfig
from galaxy_mpi.engine.chips import Held
from galaxy_mpi.engine.plan import Plan
from galaxy_mpi.mesh.transport import PlaneTransport
from galaxy_mpi.models.programs import Programs
from galaxy_mpi.program import Program
from galaxy_mpi.systems import PassShape, PrefillPass

__all__ = ["NoRunClocks", "run_clocks"]


class NoRunClocks:
    """Stands for clocks where the device has no such numbers."""

    times: Sequence[Any] = ()

    def options(self, held: Held, program: Program, work: PassShape | None) -> dict[str, Any]:
        """Return nothing."""
        return {}

    def begin_prefill(self, work: PrefillPass) -> None:
        """Do nothing."""

    def begin_step(self, positions: Sequence[int]) -> None:
        """Do nothing."""

    def end_prefill(self, requests: Sequence[int]) -> None:
        """Do nothing."""

    def end_step(self, n_tokens: int) -> None:
        """Do nothing."""

    def device_run(self, chips: Sequence[Any]) -> None:
        """Return nothing."""


def run_clocks(
    programs: Programs, plan: Plan, run: RunConfig, transport: PlaneTransport
) -> NoRunClocks:
    """Return what keeps device time, for formats that the device has."""
    return NoRunClocks()
