"""One run: plan, chips, scheduler, modes, sampler, report."""

from galaxy_mpi.engine.engine import Engine, Hooks

__all__ = ["Engine", "Hooks"]
