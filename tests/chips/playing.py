"""Runs with all chips of a mesh in this process."""

from typing import Any

from galaxy_mpi.config import RunConfig
from galaxy_mpi.engine import Engine, Hooks
from galaxy_mpi.engine.report import Report
from galaxy_mpi.mesh.local_transport import LocalTransport


def connect(run: RunConfig, **hooks: Any) -> Engine:
    """Return the engine of a run; use it in a ``with`` statement."""
    return Engine(run, LocalTransport(run.working_mesh), Hooks(**hooks))


def play(run: RunConfig, **hooks: Any) -> tuple[Report, Engine]:
    """Return the report of a run, and its engine."""
    with connect(run, **hooks) as engine:
        return engine.generate(), engine


def report_of(run: RunConfig, **hooks: Any) -> Report:
    """Return the report of a run."""
    return play(run, **hooks)[0]
