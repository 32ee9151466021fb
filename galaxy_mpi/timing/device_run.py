"""Device time of a run, as rank 0 knows it at the end."""

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from galaxy_mpi.json_values import JsonObject
from galaxy_mpi.timing.budget import Budget, MemorySource
from galaxy_mpi.timing.estimator import Estimator, ProgramSource
from galaxy_mpi.timing.machine import Machine
from galaxy_mpi.timing.replay import device_trace
from galaxy_mpi.timing.run_clock import RunClock
from galaxy_mpi.timing.slowness import Slowness
from galaxy_mpi.timing.times import DeviceTimes
from galaxy_mpi.timing.trace import Trace
from galaxy_mpi.timing.traced import Events

__all__ = ["DeviceRun", "Source"]


class Source(ProgramSource, MemorySource, Protocol):
    """Source of programs: `galaxy_mpi.models.Programs`."""


@dataclass(frozen=True)
class DeviceRun:
    """Times of a run, and the inputs of traces and budgets."""

    programs: Source
    machine: Machine
    times: DeviceTimes
    events: Events
    slowness: Slowness
    stragglers: list[JsonObject]
    """Chips that others wait for, see `galaxy_mpi.timing.run_clock.stragglers`."""

    @classmethod
    def of(
        cls, programs: Source, machine: Machine, clock: RunClock, slowness: Slowness
    ) -> "DeviceRun":
        """Return what a clock has recorded."""
        waited_for = clock.stragglers()
        return cls(programs, machine, clock.times, clock.events, slowness, waited_for)

    def budget(self, n_positions: int) -> Budget:
        """Return the memory of a chip whose users have so many positions."""
        return Budget.of(self.programs, self.machine, n_positions)

    @cached_property
    def trace(self) -> Trace:
        """Trace of the first passes and steps, re-evaluated on all chips at once."""
        return device_trace(
            Estimator(self.programs, self.machine, slowness=self.slowness), self.events
        )

    def op_report_csv(self) -> str:
        """Return the trace as an op report; see `galaxy_mpi.timing.op_report`."""
        from galaxy_mpi.timing.op_report import op_report_csv  # only for one option, on rank 0

        return op_report_csv(self.trace, self.machine, self.programs.decode())
