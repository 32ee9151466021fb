"""The first passes and steps of a run, evaluated once more on all chips at once, as a trace."""

from dataclasses import dataclass, field
from typing import Any

from galaxy_mpi.timing.estimator import Estimator
from galaxy_mpi.timing.trace import Trace

__all__ = ["TRACED_STEPS", "Events", "device_trace"]

TRACED_STEPS = 4
"""Decode steps that a trace has, with the passes before the last of them: a step of 80 layers on
32 chips has 170,000 events."""


@dataclass
class Events:
    """What the first passes and steps of a run were about, in order."""

    events: list[Any] = field(default_factory=list)
    """Of a step the list of the longest position in each column; of a pass its shape."""
    n_steps: int = 0

    @property
    def is_full(self) -> bool:
        """Whether no more is wanted."""
        return self.n_steps >= TRACED_STEPS

    def add(self, event: Any) -> None:
        """Note a step or a pass."""
        if not self.is_full:
            self.events.append(event)
            self.n_steps += isinstance(event, list)


def device_trace(estimator: Estimator, events: Events) -> Trace:
    """Return the trace of passes and steps, one behind the other."""
    trace = Trace(estimator.programs.mesh)
    for event in events.events:
        evaluate = estimator.step if isinstance(event, list) else estimator.prefill
        trace.origin_s += evaluate(event, trace).seconds
    return trace
