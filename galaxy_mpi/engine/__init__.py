"""One run: plan, chips, scheduler, modes, sampler, report."""

from galaxy_mpi.engine.engine import Engine, Hooks
from galaxy_mpi.engine.report import Report

__all__ = ["Engine", "Hooks", "Report"]
