"""Build the chips of a process and run all requests on them.

The order of a run, on every rank::

    rank 0 reads config, tokenizer, prompts  ->  all ranks agree
    every rank reads and packs its shards    ->  all ranks agree
    until every request has ended:
        prefill waiting requests that fit    (mode: prefill)
        step all users by one token          (mode: decode)
    rank 0 gathers counters and writes the report
"""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType

from galaxy_mpi.checkpoints import Tokenizer
from galaxy_mpi.config import MAX_USERS, RunConfig
from galaxy_mpi.engine.capture import Capture
from galaxy_mpi.engine.chips import check_memory, load_chips
from galaxy_mpi.engine.host_trace import HostSpans, host_trace
from galaxy_mpi.engine.memory import RankMemory, proportional_set_bytes
from galaxy_mpi.engine.modes import DecodeMode, NoClock, PrefillMode, Watcher, at_layer_ends
from galaxy_mpi.engine.plan import Plan, make_plan
from galaxy_mpi.engine.probabilities import Sums
from galaxy_mpi.engine.ran import what_ran
from galaxy_mpi.engine.report import Report
from galaxy_mpi.engine.request import Request
from galaxy_mpi.engine.sampler import Sampler
from galaxy_mpi.engine.scheduler import Scheduler
from galaxy_mpi.engine.seen import Observer, Seen, piece_of
from galaxy_mpi.engine.times import RunTimes
from galaxy_mpi.engine.turns import take_turns
from galaxy_mpi.mesh.plane import Crossing
from galaxy_mpi.mesh.transport import Transport
from galaxy_mpi.models.programs import Programs
from galaxy_mpi.prefetch import Prefetcher, WeightId
from galaxy_mpi.systems import PassShape
from galaxy_mpi.timing import Costs, Trace
from galaxy_mpi.timing.device_run import DeviceRun
from galaxy_mpi.timing.replay import Traced
from galaxy_mpi.timing.run_clock import ChipTimes, RunClock

__all__ = ["Engine", "Hooks"]


@dataclass(frozen=True)
class Hooks:
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


class Engine:
    """The chips of one process in a run.

    Parameters
    ----------
    run : RunConfig
    transport : Transport
        Of ``run.working_mesh``.
    hooks : Hooks, optional
    forced : sequence of sequence of int, optional
        Tokens that each request continues with, whatever is chosen; see ``chosen``.

    Attributes
    ----------
    chosen : dict of int to list of int
        The tokens that were chosen for each request.
    requests : list of Request
        Of the run, on all ranks.

    Raises
    ------
    UserError
        On all ranks, if the model or the prompts cannot be used.
    """

    def __init__(
        self,
        run: RunConfig,
        transport: Transport,
        hooks: Hooks | None = None,
        forced: Sequence[Sequence[int]] | None = None,
    ) -> None:
        self.run, self._transport, self._hooks = run, transport, hooks or Hooks()
        began = time.perf_counter()
        self._tokenizer: Tokenizer | None = None
        self.plan = transport.from_root(self._make_plan)
        self.chips = load_chips(run, self.plan, transport, self._hooks.loaded_layer)
        self.sampler = Sampler(self.plan.sampling, self.chips.layout.vocab)
        self.times = RunTimes(load_s=time.perf_counter() - began)
        self._spans = self._make_spans()
        self._observer = None
        if run.report_path is not None:
            self._observer = Observer(self.chips.layout.vocab)
        self.programs = self._make_programs()
        self._device = self._make_clock()
        self._prefilled: list[Request] = []
        self._forced, self.chosen = forced, dict[int, list[int]]()
        self.requests: list[Request] = []
        watchers = self._make_watchers()
        self.decode_mode = DecodeMode(
            self.chips,
            self.programs,
            self._make_prefetcher(),
            self._device or NoClock(),
            watchers=watchers,
        )
        ends = at_layer_ends(lambda layer, outputs: self._layer_ended(layer))
        self.prefill_mode = PrefillMode(
            self.chips, self.programs, self._device or NoClock(), [ends], watchers
        )
        self.decode_mode.timeline = self.prefill_mode.timeline = self._spans
        self.decode_mode.note = self.prefill_mode.note = self._hooks.before_crossing
        self._mode = ""

    def __enter__(self) -> "Engine":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.free()
        else:  # requests may be pending
            self.decode_mode.abandon()

    def free(self) -> None:
        """Release what the programs hold."""
        self.decode_mode.free()
        self.prefill_mode.free()

    def generate(self) -> Report | None:
        """Run every request to its end; return the report on rank 0, None elsewhere.

        An interrupt (`KeyboardInterrupt`) on rank 0 ends the run with a report of what is complete;
        other ranks are left where they are.
        """
        scheduler = self.new_scheduler()
        self.requests = scheduler.requests
        self.times.start()
        try:
            take_turns(scheduler, self)
        except KeyboardInterrupt:
            if self._transport.rank != 0:
                raise
            return self._report(scheduler, is_interrupted=True)
        return self._report(scheduler)

    def new_scheduler(self) -> Scheduler:
        """Return a scheduler of the run's prompts, identical on all ranks."""
        run, plan = self.run, self.plan
        return Scheduler(
            plan.prompt_tokens,
            n_places(run),
            run.working_mesh.cols,
            plan.limits,
            max_new_tokens=run.max_new_tokens,
            eos_tokens=plan.model.eos_tokens,
            prefix_caching=run.prefix_caching,
            refused=self._hooks.refused,
            bad=plan.bad_prompts,
        )

    def prefill(self, scheduler: Scheduler, requests: list[Request]) -> None:
        """Prefill the requests of `Scheduler.next_prefill`; each gets its first token."""
        self._transport.begin(f"prefill after decode step {self.times.n_steps}")
        self._switch(PrefillMode.name)
        self._begin(PrefillMode.name)
        began = time.perf_counter()
        work = scheduler.prefill_pass(requests)
        self._prefilled = requests
        numbers = [request.number for request in requests]
        ready = self.prefill_mode.run(work)
        if self._device is not None and ready.clocks is not None:
            self._device.end_prefill(ready.clocks, numbers)
        values, tokens = ready.results("values")[0], ready.results("tokens")[0]
        sampled = self.sampler.choose(values, tokens, range(len(numbers)), numbers)
        if self._observer is not None:
            self._observer.probabilities.chose(values, tokens, range(len(numbers)), sampled)
        self.times.add_prefill(time.perf_counter() - began, requests)
        self._end()
        self._advance(scheduler, sampled)

    def decode(self, scheduler: Scheduler) -> None:
        """Run one decode step of all users with a place."""
        self._hooks.before_step(self.times.n_steps)
        self._transport.begin(f"decode step {self.times.n_steps + 1}")
        self._switch(DecodeMode.name)
        self._begin(DecodeMode.name)
        began = time.perf_counter()
        tables = {column: scheduler.page_table(column) for column in self.chips.columns}
        active = scheduler.active
        positions = scheduler.longest_positions()
        ready = self.decode_mode.run(scheduler.tokens, tables, positions)
        if self._device is not None and ready.clocks is not None:
            self._device.end_step(ready.clocks, len(active), [r.number for r in active])
        values, tokens = ready.results("values")[0], ready.results("tokens")[0]
        rows, numbers = [r.place for r in active], [r.number for r in active]
        sampled = self.sampler.choose(values, tokens, rows, numbers)
        if self._observer is not None:
            self._observer.probabilities.chose(values, tokens, rows, sampled)
        self.times.add_step(time.perf_counter() - began, active)
        self._end()
        self._advance(scheduler, sampled)
        self._hooks.after_step(self.times.n_steps, scheduler)

    def chip_times(self) -> list[ChipTimes] | None:
        """Return the clocks' records of all chips on rank 0, None elsewhere. Collective."""
        ranks = self._transport.gather([] if self._device is None else self._device.times)
        return None if ranks is None else [times for rank in ranks for times in rank]

    def _switch(self, mode: str) -> None:
        """Record a change of mode, which costs nothing because programs of both are kept."""
        if self._mode and self._mode != mode:
            self.times.add_switch(0.0)
        self._mode = mode

    def _layer_ended(self, layer: int) -> None:
        self._hooks.prefilled_layer(self._prefilled, layer, self.plan.model.n_layers)

    def _advance(self, scheduler: Scheduler, sampled: dict[int, int]) -> None:
        for number, token in sampled.items():
            self.chosen.setdefault(number, []).append(token)
        if self._forced is not None:
            generated = {n: len(scheduler.requests[n].generated) for n in sampled}
            sampled = {n: self._forced[n][at] for n, at in generated.items()}
        scheduler.advance(sampled)
        if self._hooks.generated is not None and self._tokenizer is not None:
            for number in sampled:
                self._hooks.generated(scheduler.requests[number], self._tokenizer.decode)
        for number in sampled:
            if scheduler.requests[number].ended is not None:
                self.sampler.forget(number)

    def _make_programs(self) -> Programs:
        run, chips = self.run, self.chips
        return Programs(
            self.plan.model,
            run.mesh,
            run.emulated_system,
            chips.precision,
            users=n_places(run),
            prefetch=run.prefetch,
            modules=chips.modules,
            head=chips.head,
            layout_class=run.layout_class,
        )

    def _make_watchers(self) -> list[Watcher]:
        run = self.run
        seen: list[Watcher] = [] if self._observer is None else [self._observer.probabilities]
        if run.capture_path is None:
            return seen
        of_prompt = self.programs.prefill(PassShape.of_prompt(1))
        run.capture.check(self.programs.decode(), of_prompt)
        key = self.chips.layout.key
        capture = Capture(run.capture_path, run.capture, run.working_mesh, self._transport, key)
        return [*seen, capture]

    def _make_clock(self) -> RunClock | None:
        """Return the keeper of device time, for formats that the device has."""
        if self.plan.machine is None:
            return None
        costs = Costs(self.programs.on(self.plan.machine))
        chips = self._transport.chips
        traced = Traced(self.run.trace_steps)
        return RunClock(costs, self.run.working_mesh, chips, self.run.slowness, traced)

    def _device_run(self, chips: list[ChipTimes]) -> DeviceRun | None:
        device, machine = self._device, self.plan.machine
        if device is None or machine is None or not chips:
            return None
        return DeviceRun.of(self.programs, machine, chips, device.events, self.run.slowness)

    def _make_prefetcher(self) -> Prefetcher | None:
        if not self.programs.prefetch:
            return None
        spans = self._spans
        return Prefetcher(
            note=None if spans is None else spans.add_prefetch,
            note_fill=None if spans is None else spans.add_fill,
            note_wait=None if spans is None else spans.add_stall,
            before_unpack=self._hooks.before_unpack,
        )

    def _make_spans(self) -> HostSpans | None:
        if self.run.host_trace_path is None and self.run.report_path is None:
            return None
        return HostSpans(tuple(self._transport.chips), Traced(self.run.trace_steps))

    def _begin(self, mode: str) -> None:
        """Record in the host trace that a pass or step begins."""
        if self._spans is not None:
            self._spans.begin(mode)

    def _end(self) -> None:
        """Record that it has ended."""
        if self._spans is not None:
            self._spans.end()

    def _make_plan(self) -> Plan:
        plan, self._tokenizer = make_plan(self.run)
        check_memory(self.run, plan, len(self._transport.chips), dict(os.environ))
        return plan

    def _host_trace(self, ranks: list[HostSpans]) -> Trace | None:
        is_asked = ranks and self.run.host_trace_path is not None
        return host_trace(self.run.working_mesh, ranks) if is_asked else None

    def text_of(self, before: Sequence[int], token: int) -> str:
        """Return the text that a token adds to the tokens before it; on rank 0."""
        assert self._tokenizer is not None
        return piece_of(self._tokenizer, before, token)

    def _seen(self, sums: list[list[Sums]]) -> Seen | None:
        if self._observer is None or self._spans is None:
            return None
        assert self._tokenizer is not None
        return self._observer.seen(sums, self.requests, self._tokenizer, self._spans)

    def _report(self, scheduler: Scheduler, *, is_interrupted: bool = False) -> Report | None:
        chips = self.chips
        totals = {mode.name: mode.totals for mode in (self.decode_mode, self.prefill_mode)}
        blocks = max(pool.peak for pool in scheduler.pools)
        memory = [
            RankMemory(
                weights_bytes=held.weights.packed_bytes,
                embedding_bytes=held.weights.embedding_bytes,
                kv_cache_bytes=blocks * sum(c.block_bytes for c in held.state.caches),
                kv_cache_reserved_bytes=self.plan.limits.n_blocks
                * sum(c.block_bytes for c in held.state.caches),
                persistent_buffers_bytes=self.decode_mode.sent_bytes,
                unpacked_weights_bytes=max(t.prefetch.capacity_bytes for t in totals.values()),
                process_bytes=proportional_set_bytes() // len(chips.held),
            )
            for held in chips.held
        ]
        times = [] if self._device is None else self._device.times
        sums = [] if self._observer is None else self._observer.probabilities.sums
        mine = totals, memory, times, self._spans, sums
        ranks = [mine] if is_interrupted else self._transport.gather(mine)
        if ranks is None:
            return None
        assert self._tokenizer is not None
        of_chips = [times for rank in ranks for times in rank[2]]
        if len(of_chips) < self.run.working_mesh.n_chips:  # those of others are not known
            of_chips = []
        return Report(
            run=self.run,
            precision=self.plan.precision.name,
            model=self.plan.model,
            prompts=self.plan.prompts,
            requests=scheduler.requests,
            text=[self._tokenizer.decode(r.generated) for r in scheduler.requests],
            times=self.times,
            device=self._device_run(of_chips),
            host_trace=self._host_trace([rank[3] for rank in ranks if rank[3] is not None]),
            decode=[rank[0][DecodeMode.name] for rank in ranks],
            prefill=[rank[0][PrefillMode.name] for rank in ranks],
            memory=[chip for rank in ranks for chip in rank[1]],
            seen=self._seen([rank[4] for rank in ranks]),
            ran=what_ran(
                self.run,
                self.programs,
                self.plan.machine,
                self.plan.sampling,
                self.plan.checksums,
            ),
            is_interrupted=is_interrupted,
        )


def n_places(run: RunConfig) -> int:
    """Return the number of user places of a run, equally many per column."""
    cols = run.working_mesh.cols
    return -(-(run.batch or MAX_USERS) // cols) * cols
