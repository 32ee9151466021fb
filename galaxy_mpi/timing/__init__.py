"""Device time of programs: machine constants, op costs, clocks, traces, memory.

It works with seconds, bytes and plain numbers, never with model values, messages or host time. It
knows programs and their charges, but not the systems that define the ops.
"""

from galaxy_mpi.timing.costs import Costs
from galaxy_mpi.timing.machine import MACHINES, Machine
from galaxy_mpi.timing.slowness import Slowness
from galaxy_mpi.timing.tape import Tape
from galaxy_mpi.timing.times import DeviceTimes, Timing

__all__ = [
    "MACHINES",
    "Costs",
    "DeviceTimes",
    "Machine",
    "Slowness",
    "Tape",
    "Timing",
]
