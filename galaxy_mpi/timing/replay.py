"""The passes and steps of a run that are traced, evaluated once more on all chips at once."""

from galaxy_mpi.timing.estimator import Estimator
from galaxy_mpi.timing.trace import PROGRAM, Trace
from galaxy_mpi.timing.traced import Events

__all__ = ["device_trace"]


def device_trace(estimator: Estimator, events: Events) -> Trace:
    """Return the trace of passes and steps, one after the other."""
    mesh = estimator.programs.mesh
    trace = Trace(mesh)
    for name, event in events.events:
        trace.title = name
        if isinstance(event, list):
            trace.origin_s += estimator.step(event, trace).seconds
        else:
            trace.origin_s += estimator.prefill(event, trace).seconds
    run_s, trace.origin_s = trace.origin_s, 0.0
    for rank in range(mesh.n_chips):
        trace.span(rank, PROGRAM, "run", 0.0, run_s)
    return trace
