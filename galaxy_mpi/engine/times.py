"""Host time of a run: seconds of prefill, of decode steps, and until first tokens."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from galaxy_mpi.engine.request import Request

__all__ = ["RunTimes"]


@dataclass
class RunTimes:
    """Seconds of host time on one rank."""

    load_s: float
    step_s: list[float] = field(default_factory=list)
    """Of every decode step."""
    n_step_tokens: int = 0
    """Tokens that the decode steps generated."""
    prefill_s: list[float] = field(default_factory=list)
    """Of every prefill pass."""
    n_prefill_tokens: int = 0
    """Prompt tokens that were computed; cached ones and padding are not."""
    switch_s: list[float] = field(default_factory=list)
    """Of every change of the mode."""
    first_token_s: dict[int, float] = field(default_factory=dict)
    """From `start` to the first token of each request, by number: waiting for a place included."""
    _started: float = 0.0

    def start(self) -> None:
        """Begin to count until first tokens."""
        self._started = time.perf_counter()

    @property
    def n_steps(self) -> int:
        """Decode steps so far."""
        return len(self.step_s)

    def add_prefill(self, seconds: float, requests: Sequence[Request]) -> None:
        """Note a pass that gave ``requests`` their first tokens."""
        self.prefill_s.append(seconds)
        for request in requests:
            self.n_prefill_tokens += len(request.prompt) - request.n_cached
            self.first_token_s[request.number] = time.perf_counter() - self._started

    def add_step(self, seconds: float, n_tokens: int) -> None:
        """Note a decode step that gave so many tokens."""
        self.step_s.append(seconds)
        self.n_step_tokens += n_tokens

    def add_switch(self, seconds: float) -> None:
        """Note a change of the mode."""
        self.switch_s.append(seconds)
