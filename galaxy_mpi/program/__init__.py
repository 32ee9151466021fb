"""A step of a model as a program: recorded once, bound to arrays once, run many times.

`op` defines programs, `charge` the charges of device time, `binder` turns a program into calls on
arrays, and `runner` runs the chips of a process in lockstep.
"""

from galaxy_mpi.program.binder import Binder, Call, Phase, Tap
from galaxy_mpi.program.charge import Charge, Consumed, Cross, Kernel, Take
from galaxy_mpi.program.choice import Choice
from galaxy_mpi.program.codecs import Codecs
from galaxy_mpi.program.memory import Matrix
from galaxy_mpi.program.op import HEAD, Cut, Cuts, Op, Program, Tensor, Use
from galaxy_mpi.program.pool import ArrayPool
from galaxy_mpi.program.runner import BoundProgram, Timeline, bind_program
from galaxy_mpi.program.spent import Bound, Spent

__all__ = [
    "HEAD",
    "ArrayPool",
    "Binder",
    "Bound",
    "BoundProgram",
    "Call",
    "Charge",
    "Choice",
    "Codecs",
    "Consumed",
    "Cross",
    "Cut",
    "Cuts",
    "Kernel",
    "Matrix",
    "Op",
    "Phase",
    "Program",
    "Spent",
    "Take",
    "Tap",
    "Tensor",
    "Timeline",
    "Use",
    "bind_program",
]
