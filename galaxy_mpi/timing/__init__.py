"""Device time of programs: machine constants, op costs, clocks, traces, memory.

It works with seconds, bytes and plain numbers, never with model values, messages or host time. It
knows programs and their charges, but not the systems that define the ops.
"""

from galaxy_mpi.timing.machine import MACHINES, Machine
from galaxy_mpi.timing.slowness import Slowness

__all__ = ["MACHINES", "Machine", "Slowness"]
