"""What the emulated chips would take: constants of the machine, cost of an op, clocks.

Seconds, bytes and plain numbers; no array of the model, no message, no host time.
"""

from galaxy_mpi.device.chip_clock import ChipClock, Tape
from galaxy_mpi.device.clock import Charged, Collective, MeshClock
from galaxy_mpi.device.cost import Costs
from galaxy_mpi.device.machine import MACHINES, Machine
from galaxy_mpi.device.slowness import Slowness
from galaxy_mpi.device.trace import Trace

__all__ = [
    "MACHINES",
    "Charged",
    "ChipClock",
    "Collective",
    "Costs",
    "Machine",
    "MeshClock",
    "Slowness",
    "Tape",
    "Trace",
]
