"""Builds one chip of a run and takes all requests through it.

The order of a run, on every rank::

    rank 0 reads config, tokenizer, prompts  ->  all ranks agree
    every rank reads and packs its shards    ->  all ranks agree
    until every request has ended:
        prefill what has a place and memory  (mode: prefill)
        step all users by one token          (mode: decode)
    rank 0 gathers counters and writes the report
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

from galaxy_mpi.checkpoints import Tokenizer
from galaxy_mpi.config import MAX_USERS, RunConfig
from galaxy_mpi.device import Trace
from galaxy_mpi.engine.chip import load_chip
from galaxy_mpi.engine.device_program import DeviceProgram
from galaxy_mpi.engine.device_run import DeviceRun
from galaxy_mpi.engine.memory import RankMemory, proportional_set_bytes
from galaxy_mpi.engine.modes import DecodeMode, ModeTotals, PrefillMode
from galaxy_mpi.engine.plan import Plan, make_plan
from galaxy_mpi.engine.report import Report
from galaxy_mpi.engine.request import Request
from galaxy_mpi.engine.run_clock import ChipTimes, NoClock, RunClock
from galaxy_mpi.engine.sampler import Sampler
from galaxy_mpi.engine.scheduler import Scheduler
from galaxy_mpi.engine.times import RunTimes
from galaxy_mpi.engine.tracing import TRACED_STEPS, HostSpans, host_trace
from galaxy_mpi.mesh import Transport
from galaxy_mpi.prefetch import WeightId

__all__ = ["Engine", "Hooks"]


@dataclass(frozen=True)
class Hooks:
    """Where tests and progress displays look into a run; nothing here by default."""

    loaded_layer: Callable[[int, int], None] = lambda layer, n_layers: None
    refused: Callable[[str], None] = lambda line: None
    prefilled_layer: Callable[[list[Request], int, int], None] = lambda requests, layer, n: None
    before_step: Callable[[int], None] = lambda step: None
    after_step: Callable[[int, Scheduler], None] = lambda step, scheduler: None
    before_unpack: Callable[[WeightId], None] | None = None


class Engine:
    """One chip of a run.

    Parameters
    ----------
    run : RunConfig
    transport : Transport
        Of ``run.working_mesh``.
    hooks : Hooks, optional

    Raises
    ------
    UserError
        On all ranks alike, if the model or the prompts cannot be used.
    """

    def __init__(self, run: RunConfig, transport: Transport, hooks: Hooks | None = None) -> None:
        self.run, self._transport, self._hooks = run, transport, hooks or Hooks()
        began = time.perf_counter()
        self._tokenizer: Tokenizer | None = None
        self.plan = transport.from_root(self._make_plan)
        self.chip = load_chip(run, self.plan, transport, self._hooks.loaded_layer)
        self.sampler = Sampler(
            self.plan.sampling, self.chip.precision.candidates, self.chip.n_valid_tokens
        )
        self._totals = {DecodeMode.name: ModeTotals(), PrefillMode.name: ModeTotals()}
        self.mode: DecodeMode | PrefillMode | None = None
        self.times = RunTimes(load_s=time.perf_counter() - began)
        self._device = self._make_clock()
        self._spans = None if run.host_trace_path is None else HostSpans()

    def __enter__(self) -> "Engine":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.mode is None:
            return
        if error is None:
            self.mode.leave()
        else:
            self.mode.abandon()
        self.mode = None

    def generate(self) -> Report | None:
        """Take every request to its end; return the report on rank 0, None elsewhere."""
        scheduler, hooks, times = self.new_scheduler(), self._hooks, self.times
        times.start()
        while not scheduler.is_done:
            while requests := scheduler.next_prefill():
                self.prefill(scheduler, requests)
            if scheduler.active:
                hooks.before_step(times.n_steps)
                self.decode(scheduler)
                hooks.after_step(times.n_steps, scheduler)
        return self._report(scheduler)

    def new_scheduler(self) -> Scheduler:
        """Return a scheduler of the run's prompts; on all ranks alike."""
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
        )

    def prefill(self, scheduler: Scheduler, requests: list[Request]) -> None:
        """Run the prompts of `Scheduler.next_prefill` and give each its first token."""
        self._transport.begin(f"prefill after decode step {self.times.n_steps}")
        mode = self.prefill_mode()
        began = time.perf_counter()
        work = scheduler.prefill_pass(requests)
        self._device.begin_prefill(work)
        n_layers = self.plan.model.n_layers
        logits_UV = mode.logits(
            work, lambda layer, _: self._hooks.prefilled_layer(requests, layer, n_layers)
        )
        numbers = [request.number for request in requests]
        sampled = self.sampler.sample(mode.ccl, logits_UV, range(len(numbers)), numbers)
        self._device.end_prefill(numbers)
        self.times.add_prefill(time.perf_counter() - began, requests)
        self._note("prefill", began)
        self._advance(scheduler, sampled)

    def decode(self, scheduler: Scheduler) -> None:
        """Run one step of all users that have a place."""
        self._transport.begin(f"decode step {self.times.n_steps + 1}")
        mode = self.decode_mode()
        began = time.perf_counter()
        self._device.begin_step(scheduler.longest_positions())
        logits_BV = mode.logits(scheduler.tokens, scheduler.page_table(self.chip.column))
        active = scheduler.active
        sampled = self.sampler.sample(
            mode.ccl,
            logits_BV,
            [request.place for request in active],
            [request.number for request in active],
        )
        self._device.end_step(len(active))
        self.times.add_step(time.perf_counter() - began, len(active))
        self._note("decode", began)
        self._advance(scheduler, sampled)

    def decode_mode(self) -> DecodeMode:
        """Switch to decode, unless it is the mode already."""
        if not isinstance(self.mode, DecodeMode):
            self._switch(
                lambda: DecodeMode(
                    self.chip,
                    self.run,
                    self._totals[DecodeMode.name],
                    self._device.clock,
                    self._spans,
                    self._hooks.before_unpack,
                )
            )
        assert isinstance(self.mode, DecodeMode)
        return self.mode

    def prefill_mode(self) -> PrefillMode:
        """Switch to prefill, unless it is the mode already."""
        if not isinstance(self.mode, PrefillMode):
            totals, clock = self._totals[PrefillMode.name], self._device.clock
            self._switch(lambda: PrefillMode(self.chip, self.run, totals, clock, self._spans))
        assert isinstance(self.mode, PrefillMode)
        return self.mode

    def leave_mode(self) -> None:
        """Release what the mode has; whoever needs one next makes it."""
        if self.mode is not None:
            self.mode.leave()
            self.mode = None

    def _switch(self, enter: Callable[[], DecodeMode | PrefillMode]) -> None:
        began = time.perf_counter()
        if self.mode is not None:
            self.mode.leave()
        self.mode = enter()
        self.times.add_switch(time.perf_counter() - began)

    def _advance(self, scheduler: Scheduler, sampled: dict[int, int]) -> None:
        scheduler.advance(sampled)
        for number in sampled:
            if scheduler.requests[number].ended is not None:
                self.sampler.forget(number)

    def _make_clock(self) -> RunClock | NoClock:
        """Return what keeps device time, for formats that the device has."""
        program = self._program()
        if program is None:
            return NoClock()
        return RunClock(program, self._transport.rank, self.run.slowness)

    def _program(self) -> DeviceProgram | None:
        run, plan = self.run, self.plan
        if plan.machine is None:
            return None
        precision, users = self.chip.precision, n_places(run)
        return DeviceProgram(
            plan.model,
            plan.machine,
            run.mesh,
            precision,
            users=users,
            prefetch=run.prefetch,
            system=run.emulated_system,
        )

    def _note(self, name: str, began: float) -> None:
        """Note a pass or a step for the host's trace."""
        if self._spans is not None:
            self._spans.add_step(name, began, time.perf_counter())
            self._spans.is_full = self.times.n_steps >= TRACED_STEPS

    def _make_plan(self) -> Plan:
        plan, self._tokenizer = make_plan(self.run)
        return plan

    def _device_run(self, chips: list[ChipTimes | None]) -> DeviceRun | None:
        program = self._program()
        if program is None:
            return None
        return DeviceRun.of(program, chips, self._device.events, self.run.slowness)

    def _host_trace(self, ranks: list[HostSpans]) -> Trace | None:
        return host_trace(self.run.working_mesh, ranks) if ranks else None

    def _report(self, scheduler: Scheduler) -> Report | None:
        self.leave_mode()
        chip, totals = self.chip, self._totals
        blocks = max(pool.peak for pool in scheduler.pools)
        block_bytes = sum(cache.block_bytes for cache in chip.caches)
        memory = RankMemory(
            weights_bytes=chip.weights.packed_bytes,
            embedding_bytes=chip.weights.embedding_bytes,
            kv_cache_bytes=blocks * block_bytes,
            kv_cache_reserved_bytes=self.plan.limits.n_blocks * block_bytes,
            persistent_buffers_bytes=max(t.persistent_bytes for t in totals.values()),
            unpacked_weights_bytes=max(t.prefetch.capacity_bytes for t in totals.values()),
            process_bytes=proportional_set_bytes(),
        )
        ranks = self._transport.gather((totals, memory, self._device.times, self._spans))
        if ranks is None:
            return None
        assert self._tokenizer is not None
        return Report(
            run=self.run,
            precision=self.plan.precision.name,
            model=self.plan.model,
            prompts=self.plan.prompts,
            requests=scheduler.requests,
            text=[self._tokenizer.decode(r.generated) for r in scheduler.requests],
            times=self.times,
            device=self._device_run([rank[2] for rank in ranks]),
            host_trace=self._host_trace([rank[3] for rank in ranks if rank[3] is not None]),
            decode=[rank[0][DecodeMode.name] for rank in ranks],
            prefill=[rank[0][PrefillMode.name] for rank in ranks],
            memory=[rank[1] for rank in ranks],
        )


def n_places(run: RunConfig) -> int:
    """Return the user places of a run: as many in each column."""
    cols = run.working_mesh.cols
    return -(-(run.batch or MAX_USERS) // cols) * cols
