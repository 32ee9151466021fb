"""One run from prompts to report: build a chip, step the batch, sample, stop, tell."""

from galaxy_mpi.engine.batch import Batch, EndReason
from galaxy_mpi.engine.engine import Engine
from galaxy_mpi.engine.report import Report

__all__ = ["Batch", "EndReason", "Engine", "Report"]
