"""Which requests arrive, and when: the arguments of a command, checked."""

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from galaxy_mpi.errors import ConfigError
from galaxy_mpi.json_values import JsonObject
from galaxy_mpi.serving.arrivals import Arrival, ClosedLoop, OpenLoop, Size, Source, poisson, sizes
from galaxy_mpi.serving.lengths import Lengths
from galaxy_mpi.serving.trace_file import read_trace

__all__ = ["Load"]

MOST_REQUESTS = 10_000_000
MOST_RATE = 1e9


@dataclass(frozen=True, kw_only=True)
class Load:
    """Requests that arrive at a rate, from a number of clients, or as recorded in a trace.

    Raises
    ------
    ConfigError
        If a value cannot be used; the message names the argument.
    """

    rate: float | None = None
    """Requests per second on average, as a Poisson process."""
    concurrency: int | None = None
    """Clients of a closed loop."""
    trace: Path | None = None
    n_requests: int = 1000
    inputs: Lengths = field(default_factory=lambda: Lengths("number", 128))
    outputs: Lengths = field(default_factory=lambda: Lengths("number", 128))
    seed: int = 0

    def __post_init__(self) -> None:
        given = (self.rate, self.concurrency, self.trace)
        if sum(each is not None for each in given) != 1:
            raise ConfigError("give one of --rate, --concurrency and --trace")
        if self.rate is not None and not 0 < self.rate <= MOST_RATE:
            raise ConfigError(f"--rate must be above 0, at most {MOST_RATE:g}, got {self.rate:g}")
        for name, value, least, most in (
            ("--concurrency", self.concurrency, 1, MOST_REQUESTS),
            ("--requests", self.n_requests, 1, MOST_REQUESTS),
            ("--seed", self.seed, 0, 2**63 - 1),
        ):
            if value is not None and not least <= value <= most:
                raise ConfigError(f"{name} must be {least} to {most}, got {value}")

    @cached_property
    def requests(self) -> tuple[Size, ...]:
        """Size of each request; of a trace, in order of arrival."""
        if self.trace is not None:
            return tuple(arrival.size for arrival in self._arrivals)
        return tuple(sizes(self.inputs, self.outputs, self.n_requests, self.seed))

    @cached_property
    def _arrivals(self) -> list[Arrival]:
        assert self.trace is not None
        return sorted(read_trace(self.trace), key=lambda arrival: arrival.at_s)

    def source(self, context: int) -> Source:
        """Return a new source of the requests.

        Parameters
        ----------
        context : int
            Positions of the model. Drawn prompts are cut to it; longer prompts of a trace are
            kept, for the scheduler to refuse.
        """
        if self.trace is not None:
            return OpenLoop(self._arrivals)
        cut = [
            size if size.input_tokens <= context else replace(size, input_tokens=context)
            for size in self.requests
        ]
        if self.concurrency is not None:
            return ClosedLoop(cut, self.concurrency)
        assert self.rate is not None
        return OpenLoop(poisson(cut, self.rate, self.seed))

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt."""
        return max(size.input_tokens for size in self.requests)

    @property
    def is_uniform(self) -> bool:
        """Whether all requests have the same lengths and no prefix."""
        return len(set(self.requests)) == 1 and not self.requests[0].prefix

    def to_dict(self) -> JsonObject:
        """Return ``load`` of a report."""
        requests = self.requests
        return {
            "rate": self.rate,
            "concurrency": self.concurrency,
            "trace": None if self.trace is None else str(self.trace),
            "requests": len(requests),
            "input_tokens": math.fsum(size.input_tokens for size in requests) / len(requests),
            "output_tokens": math.fsum(size.output_tokens for size in requests) / len(requests),
            "seed": self.seed,
        }
