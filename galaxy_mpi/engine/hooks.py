"""Callbacks of a run."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from galaxy_mpi.engine.request import Request
from galaxy_mpi.engine.scheduler import Scheduler
from galaxy_mpi.mesh.plane import Crossing
from galaxy_mpi.weights import WeightId

__all__ = ["Hooks"]


class Hooks(NamedTuple):
    """Callbacks for progress displays, recorders and tests; by default they do nothing."""

    loaded_layer: Callable[[int, int], None] = lambda layer, n_layers: None
    refused: Callable[[str], None] = lambda line: None
    prefilled_layer: Callable[[list[Request], int, int], None] = lambda requests, layer, n: None
    before_step: Callable[[int], None] = lambda step: None
    after_step: Callable[[int, Scheduler], None] = lambda step, scheduler: None
    generated: Callable[[Request, Callable[[Sequence[int]], str]], None] | None = None
    """Called on rank 0 with a request that has a token more, and what makes text of tokens."""
    before_unpack: Callable[[WeightId], None] | None = None
    before_crossing: Callable[[Crossing], None] | None = None
