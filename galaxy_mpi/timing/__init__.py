"""Programs as device time: constants of the machine, cost of an op, clocks, traces, memory.

Seconds, bytes and plain numbers; no array of the model, no message, no host time. It knows programs
and what they charge, not the systems whose ops they name.
"""

from galaxy_mpi.timing.budget import Budget
from galaxy_mpi.timing.chip_clock import ChipClock
from galaxy_mpi.timing.costs import Costs
from galaxy_mpi.timing.estimator import Estimator
from galaxy_mpi.timing.machine import MACHINES, Machine
from galaxy_mpi.timing.mesh_clock import MeshClock
from galaxy_mpi.timing.run_clock import ChipTimes, ProgramClocks, RunClock, join
from galaxy_mpi.timing.slowness import Slowness
from galaxy_mpi.timing.tape import Tape
from galaxy_mpi.timing.times import DeviceTimes, Timing
from galaxy_mpi.timing.trace import Trace

__all__ = [
    "MACHINES",
    "Budget",
    "ChipClock",
    "ChipTimes",
    "Costs",
    "DeviceTimes",
    "Estimator",
    "Machine",
    "MeshClock",
    "ProgramClocks",
    "RunClock",
    "Slowness",
    "Tape",
    "Timing",
    "Trace",
    "join",
]
