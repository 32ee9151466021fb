"""Serves requests on the device clock, and records when each one starts and ends.

The scheduling loop is that of a run (`galaxy_mpi.engine.turns`). A pass or a step starts when the
previous one ends; requests that arrive in between are admitted at that time.
"""

import heapq
from dataclasses import dataclass, field
from typing import Protocol

from galaxy_mpi.engine.request import Request
from galaxy_mpi.engine.scheduler import Scheduler
from galaxy_mpi.engine.turns import Work, take_turns
from galaxy_mpi.serving.arrivals import Arrival, Source
from galaxy_mpi.serving.prompts import Prompts
from galaxy_mpi.serving.served import Served
from galaxy_mpi.timing.estimator import Estimator
from galaxy_mpi.timing.step_table import StepTable

__all__ = ["Device", "NoValues", "Service", "Totals", "Values"]


class Values(Work, Protocol):
    """What passes and steps compute."""

    def cancel(self, scheduler: Scheduler, request: Request) -> None:
        """End a request whose client disconnected, with `Scheduler.cancel`."""


class NoValues:
    """Computes nothing: every token is 0."""

    def prefill(self, scheduler: Scheduler, requests: list[Request]) -> None:
        """Give each request its first token."""
        scheduler.advance(dict.fromkeys([request.number for request in requests], 0))

    def decode(self, scheduler: Scheduler) -> None:
        """Give each request its next token."""
        scheduler.advance(dict.fromkeys([request.number for request in scheduler.active], 0))

    def cancel(self, scheduler: Scheduler, request: Request) -> None:
        """End a request."""
        scheduler.cancel(request.number)


@dataclass(frozen=True)
class Device:
    """Times of passes and steps.

    Parameters
    ----------
    estimator : Estimator
        Of passes.
    table : StepTable
        Of steps, of the same estimator.
    pass_factor, step_factor : float
        How much slower the device is than modelled, for the ends of the bands.
    """

    estimator: Estimator
    table: StepTable
    pass_factor: float = 1.0
    step_factor: float = 1.0


@dataclass
class Totals:
    """Sums over all passes and steps."""

    passes_s: list[float] = field(default_factory=list)
    """Modelled time of each pass."""
    steps_s: list[float] = field(default_factory=list)
    """Modelled time of each step."""
    busy_s: dict[str, float] = field(default_factory=lambda: {"prefill": 0.0, "decode": 0.0})
    """By mode, with the factors of `Device`."""
    step_tokens: int = 0
    switches: int = 0
    """Changes between prefill and decode."""
    end_s: float = 0.0
    """When the last request ended."""
    dram_bytes: float = 0.0
    flops: float = 0.0
    link_bytes: dict[str, float] = field(default_factory=dict)
    waiting_s: float = 0.0
    """Waiting time of all requests."""
    placed_s: float = 0.0
    """Time in which requests held a place, summed over requests."""
    blocks_s: float = 0.0
    """Time in which users held cache blocks, summed over blocks."""
    most_waiting: int = 0
    most_placed: int = 0
    most_blocks: int = 0


class Service:
    """Serves the requests of a source on the device clock.

    Parameters
    ----------
    device : Device
    scheduler : Scheduler
        It has no requests yet.
    source : Source
    prompts : Prompts
    values : Values, optional
        What passes and steps compute; by default nothing.
    keeps_tokens : bool
        Whether requests keep their tokens after they end.

    Attributes
    ----------
    now_s : float
        The clock.
    served : list of Served
        Requests that have arrived, by number.
    totals : Totals
    """

    def __init__(
        self,
        device: Device,
        scheduler: Scheduler,
        source: Source,
        prompts: Prompts,
        values: Values | None = None,
        *,
        keeps_tokens: bool = False,
    ) -> None:
        self._device, self._source, self._prompts = device, source, prompts
        self._values, self._keeps_tokens = values or NoValues(), keeps_tokens
        self.scheduler = scheduler
        self.now_s = 0.0
        self.served: list[Served] = []
        self.totals = Totals()
        self._given_up: list[tuple[float, int]] = []
        self._mode = ""
        step = device.estimator.step([0] * len(scheduler.pools))
        self._step_link_bytes = step.link_bytes

    def play(self) -> None:
        """Serve until every request has ended and no more arrive."""
        take_turns(self.scheduler, self, self)
        self.totals.end_s = self.now_s
        for axis, n_bytes in self._step_link_bytes.items():
            self._add_link_bytes(axis, n_bytes * len(self.totals.steps_s))

    # --- arrivals, see `galaxy_mpi.engine.turns.Arrivals`

    def admit(self, scheduler: Scheduler) -> None:
        """Submit requests that have arrived, cancel those whose client has disconnected."""
        while (at_s := self._source.next_s) is not None and at_s <= self.now_s:
            self._submit(scheduler, self._source.take())
        while self._given_up and self._given_up[0][0] <= self.now_s:
            _, number = heapq.heappop(self._given_up)
            request = scheduler.requests[number]
            if request.ended is None:
                self._values.cancel(scheduler, request)
                self._end(request)

    def wait(self) -> bool:
        """Advance the clock to the next arrival."""
        at_s = self._source.next_s
        if at_s is not None:
            self.now_s = max(self.now_s, at_s)
        return at_s is not None

    def _submit(self, scheduler: Scheduler, arrival: Arrival) -> None:
        number, size = len(self.served), arrival.size
        self.served.append(Served(number, arrival.at_s, size))
        prompt = self._prompts.tokens(number, size)
        request = scheduler.submit(prompt, size.output_tokens)
        if request.ended is not None:
            self._end(request)
            return
        self.totals.waiting_s += self.now_s - arrival.at_s
        if size.cancel_s is not None:
            heapq.heappush(self._given_up, (arrival.at_s + size.cancel_s, number))

    # --- work, see `galaxy_mpi.engine.turns.Work`

    def prefill(self, scheduler: Scheduler, requests: list[Request]) -> None:
        """Run a pass."""
        for request in requests:
            one = self.served[request.number]
            one.start_s, one.place = self.now_s, request.place
            one.column, one.cached_tokens = scheduler.column(request.place), request.n_cached
        timing = self._device.estimator.prefill(scheduler.prefill_pass(requests).shape)
        self._spend(scheduler, "prefill", timing.seconds * self._device.pass_factor)
        totals = self.totals
        totals.dram_bytes += timing.dram_bytes
        totals.flops += timing.flops
        for axis, n_bytes in timing.link_bytes.items():
            self._add_link_bytes(axis, n_bytes)
        totals.passes_s.append(timing.seconds)
        self._values.prefill(scheduler, requests)
        for request in requests:
            self.served[request.number].first_token_s = self.now_s
            if request.ended is not None:
                self._end(request)

    def decode(self, scheduler: Scheduler) -> None:
        """Run a step."""
        cost = self._device.table.step(scheduler.longest_positions())
        self._spend(scheduler, "decode", cost.seconds * self._device.step_factor)
        totals, active = self.totals, scheduler.active
        totals.dram_bytes += cost.dram_bytes
        totals.flops += cost.flops
        totals.steps_s.append(cost.seconds)
        totals.step_tokens += len(active)
        self._values.decode(scheduler)
        for request in active:
            if request.ended is not None:
                self._end(request)

    def _spend(self, scheduler: Scheduler, mode: str, seconds: float) -> None:
        """Advance the clock by a pass or a step."""
        totals = self.totals
        waiting, placed = scheduler.n_waiting, scheduler.n_active
        blocks = sum([pool.n_used for pool in scheduler.pools])
        totals.waiting_s += waiting * seconds
        totals.placed_s += placed * seconds
        totals.blocks_s += blocks * seconds
        totals.most_waiting = max(totals.most_waiting, waiting)
        totals.most_placed = max(totals.most_placed, placed)
        totals.most_blocks = max(totals.most_blocks, blocks)
        totals.switches += self._mode not in ("", mode)
        totals.busy_s[mode] += seconds
        self._mode = mode
        self.now_s += seconds

    def _end(self, request: Request) -> None:
        """Record that a request has ended."""
        one = self.served[request.number]
        one.end_s, one.ended = self.now_s, request.ended
        one.output_tokens = len(request.generated)
        self._source.left(self.now_s)
        if not self._keeps_tokens:
            request.drop_tokens()

    def _add_link_bytes(self, axis: str, n_bytes: float) -> None:
        self.totals.link_bytes[axis] = self.totals.link_bytes.get(axis, 0.0) + n_bytes
