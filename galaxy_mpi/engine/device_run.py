"""All that rank 0 knows of device time at the end of a run."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from galaxy_mpi.device import Slowness, Trace
from galaxy_mpi.engine.budget import Budget
from galaxy_mpi.engine.device_program import DeviceProgram
from galaxy_mpi.engine.device_times import DeviceTimes
from galaxy_mpi.engine.estimator import Estimator
from galaxy_mpi.engine.profile import profile_csv
from galaxy_mpi.engine.run_clock import ChipTimes, join
from galaxy_mpi.engine.tracing import RunEvents, device_trace

__all__ = ["DeviceRun"]


@dataclass(frozen=True)
class DeviceRun:
    """Times of a run, and what traces and budgets are made from."""

    program: DeviceProgram
    times: DeviceTimes
    events: RunEvents
    slowness: Slowness

    @classmethod
    def of(
        cls,
        program: DeviceProgram,
        chips: Sequence[ChipTimes | None],
        events: RunEvents,
        slowness: Slowness,
    ) -> "DeviceRun":
        """Join what the chips of a run have noted, by rank."""
        times = DeviceTimes(program.model.n_layers, program.machine.prefill_cores)
        join([chip for chip in chips if chip is not None], times)
        return cls(program, times, events, slowness)

    def budget(self, n_positions: int) -> Budget:
        """Return the memory of a chip whose users have so many positions."""
        return Budget.of(self.program, n_positions)

    @cached_property
    def trace(self) -> Trace:
        """The first passes and steps, evaluated once more on all chips at once."""
        estimator = Estimator(self.program, slowness=self.slowness)
        return device_trace(estimator, self.program.mesh, self.events)

    def profile_csv(self) -> str:
        """Return the same as an op report; see `galaxy_mpi.engine.profile`."""
        p = self.program
        return profile_csv(self.trace, p.machine, p.sizes, p.precision)
