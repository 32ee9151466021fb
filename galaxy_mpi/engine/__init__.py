"""One run from prompts to report: build a chip, schedule, prefill, step, sample, tell."""

from galaxy_mpi.engine.engine import Engine, Hooks
from galaxy_mpi.engine.report import Report
from galaxy_mpi.engine.request import EndReason
from galaxy_mpi.engine.scheduler import Scheduler

__all__ = ["EndReason", "Engine", "Hooks", "Report", "Scheduler"]
