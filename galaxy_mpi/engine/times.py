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
    queue_s: dict[int, float] = field(default_factory=dict)
    """From `start` until the pass of each request began."""
    last_token_s: dict[int, float] = field(default_factory=dict)
    """From `start` to the newest token of each request."""
    _started: float = 0.0

    def start(self) -> None:
        """Begin to count until first tokens."""
        self._started = time.perf_counter()

    @property
    def n_steps(self) -> int:
        """Decode steps so far."""
        return len(self.step_s)

    @property
    def total_s(self) -> float:
        """From `start` to the last token."""
        return max(self.last_token_s.values(), default=0.0)

    @property
    def _now_s(self) -> float:
        return time.perf_counter() - self._started

    def add_prefill(self, seconds: float, requests: Sequence[Request]) -> None:
        """Note a pass that gave ``requests`` their first tokens."""
        self.prefill_s.append(seconds)
        now = self._now_s
        for request in requests:
            self.n_prefill_tokens += len(request.prompt) - request.n_cached
            self.queue_s[request.number] = now - seconds
            self.first_token_s[request.number] = self.last_token_s[request.number] = now

    def add_step(self, seconds: float, requests: Sequence[Request]) -> None:
        """Note a decode step that gave a token to each of ``requests``."""
        self.step_s.append(seconds)
        self.n_step_tokens += len(requests)
        now = self._now_s
        self.last_token_s |= {request.number: now for request in requests}

    def add_switch(self, seconds: float) -> None:
        """Note a change of the mode."""
        self.switch_s.append(seconds)
