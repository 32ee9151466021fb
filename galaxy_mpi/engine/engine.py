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
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from galaxy_mpi.config import RunConfig
from galaxy_mpi.engine.chips import load_chips
from galaxy_mpi.engine.hooks import Hooks
from galaxy_mpi.engine.modes import DecodeMode, PrefillMode
from galaxy_mpi.engine.outcome import RankOutcome
from galaxy_mpi.engine.parts import (
    make_clock,
    make_modes,
    make_observer,
    make_programs,
    make_spans,
    make_watchers,
    n_places,
)
from galaxy_mpi.engine.plan import Plan
from galaxy_mpi.engine.request import Request
from galaxy_mpi.engine.room import check_memory
from galaxy_mpi.engine.sampler import Sampler
from galaxy_mpi.engine.scheduler import Scheduler
from galaxy_mpi.engine.taps import at_layer_ends
from galaxy_mpi.engine.times import RunTimes
from galaxy_mpi.engine.turns import take_turns
from galaxy_mpi.mesh.ending import uninterrupted
from galaxy_mpi.mesh.transport import Transport

if TYPE_CHECKING:  # see the methods: few ranks or runs need them
    from galaxy_mpi.checkpoints.tokenizer import Tokenizer
    from galaxy_mpi.engine.report import Report

__all__ = ["Engine", "Hooks"]


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
    clock : RunClock or None
        On rank 0; None for formats that the device does not have.

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
        self._spans = make_spans(run, transport)
        self._observer = make_observer(run, self.chips)
        self.programs = make_programs(run, self.plan.model, self.chips)
        self.clock = make_clock(run, self.plan, self.programs, transport)
        self._prefilled: list[Request] = []
        self._forced, self.chosen = forced, dict[int, list[int]]()
        self.requests: list[Request] = []
        watchers = make_watchers(run, self.chips, self.programs, self._observer)
        ends = at_layer_ends(lambda chip, layer, outputs: self._layer_ended(chip, layer))
        self.decode_mode, self.prefill_mode = make_modes(
            self.chips,
            self.programs,
            self.clock,
            self._spans,
            self._hooks,
            watchers=watchers,
            prefill_taps=[ends],
        )
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

    def generate(self) -> "Report | None":
        """Run every request to its end; return the report on rank 0, None elsewhere.

        An interrupt (`KeyboardInterrupt`) on rank 0 ends the run with a report of what is complete;
        other ranks are left where they are.
        """
        scheduler = self.new_scheduler()
        self.requests = scheduler.requests
        self.times.start()
        try:
            take_turns(scheduler, self)
            return self._report(scheduler)
        except KeyboardInterrupt:
            if self._transport.rank != 0:
                raise
            uninterrupted()
            self._transport.leave_waits()
            return self._report(scheduler, is_interrupted=True)

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
        if self.clock is not None:
            self.clock.prefill(work.shape, numbers)
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
        ready = self.decode_mode.run(scheduler.tokens, tables)
        values, tokens = ready.results("values")[0], ready.results("tokens")[0]
        rows, numbers = [r.place for r in active], [r.number for r in active]
        sampled = self.sampler.choose(values, tokens, rows, numbers)
        if self.clock is not None:
            self.clock.step(scheduler.longest_positions(), numbers)
        if self._observer is not None:
            self._observer.probabilities.chose(values, tokens, rows, sampled)
        self.times.add_step(time.perf_counter() - began, active)
        self._end()
        self._advance(scheduler, sampled)
        self._hooks.after_step(self.times.n_steps, scheduler)

    def _switch(self, mode: str) -> None:
        """Record a change of mode, which costs nothing because programs of both are kept."""
        if self._mode and self._mode != mode:
            self.times.add_switch(0.0)
        self._mode = mode

    def _layer_ended(self, chip: tuple[int, int], layer: int) -> None:
        """Count a layer once, however many chips this process plays."""
        if chip == self._transport.mesh.coord(self._transport.chips[0]):
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

    def _begin(self, mode: str) -> None:
        """Record in the host trace that a pass or step begins."""
        if self._spans is not None:
            self._spans.begin(mode)

    def _end(self) -> None:
        """Record that it has ended."""
        if self._spans is not None:
            self._spans.end()

    def _make_plan(self) -> Plan:
        from galaxy_mpi.engine.planning import make_plan  # only rank 0 reads files

        plan, self._tokenizer = make_plan(self.run)
        check_memory(self.run, plan, len(self._transport.chips), dict(os.environ))
        return plan

    def text_of(self, before: Sequence[int], token: int) -> str:
        """Return the text that a token adds to the tokens before it; on rank 0."""
        assert self._tokenizer is not None
        from galaxy_mpi.engine.seen import piece_of  # few runs need it

        return piece_of(self._tokenizer, before, token)

    def _report(self, scheduler: Scheduler, *, is_interrupted: bool = False) -> "Report | None":
        chips = self.chips
        mine = RankOutcome(
            totals={mode.name: mode.totals for mode in (self.decode_mode, self.prefill_mode)},
            memory=chips.memory(
                used_blocks=max(pool.peak for pool in scheduler.pools),
                sent_bytes=self.decode_mode.sent_bytes,
                unpacked_bytes=max(
                    mode.totals.prefetch.capacity_bytes
                    for mode in (self.decode_mode, self.prefill_mode)
                ),
            ),
            spans=self._spans,
            sums=[] if self._observer is None else self._observer.probabilities.sums,
        )
        ranks = [mine] if is_interrupted else self._transport.gather(mine)
        if ranks is None:
            return None
        # Loaded here because only rank 0 comes so far.
        from galaxy_mpi.engine.assembly import report_of

        assert self._tokenizer is not None
        return report_of(
            self.run,
            self.plan,
            self.programs,
            self.chips.planes,
            self._tokenizer,
            scheduler.requests,
            self.times,
            ranks,
            product=self.chips.product,
            clock=self.clock,
            observer=self._observer,
            is_interrupted=is_interrupted,
        )
