"""Device time of programs: machine constants, op costs, clocks, traces, memory.

It works with seconds, bytes and plain numbers, never with model values, messages or host time. It
knows programs and their charges, but not the systems that define the ops.

Only rank 0 of a run keeps device time, so what is named here is loaded when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from galaxy_mpi.timing.machine import Machine
    from galaxy_mpi.timing.profiles import MACHINES
    from galaxy_mpi.timing.slowness import Slowness

__all__ = ["MACHINES", "Machine", "Slowness"]

_MODULES = {"MACHINES": "profiles", "Machine": "machine", "Slowness": "slowness"}


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
