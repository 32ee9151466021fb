"""Make the parts of a run that its configuration asks for.

What few runs need (captures, host traces, pages) is loaded only when it is asked for: 32 ranks load
this package on a few cores.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from galaxy_mpi.config import MAX_USERS, RunConfig
from galaxy_mpi.engine.chips import Chips
from galaxy_mpi.engine.hooks import Hooks
from galaxy_mpi.engine.mode import MakeTap, Watcher
from galaxy_mpi.engine.modes import DecodeMode, PrefillMode
from galaxy_mpi.engine.plan import Plan
from galaxy_mpi.mesh.transport import Transport
from galaxy_mpi.models import LlamaConfig
from galaxy_mpi.models.programs import Programs
from galaxy_mpi.prefetch import Prefetcher
from galaxy_mpi.systems import PassShape

if TYPE_CHECKING:
    from galaxy_mpi.engine.host_trace import HostSpans
    from galaxy_mpi.engine.seen import Observer
    from galaxy_mpi.timing.estimator import ProgramSource
    from galaxy_mpi.timing.run_clock import RunClock

__all__ = [
    "make_clock",
    "make_modes",
    "make_observer",
    "make_programs",
    "make_spans",
    "make_watchers",
    "n_places",
]


def n_places(run: RunConfig) -> int:
    """Return the number of user places of a run, equally many per column."""
    cols = run.working_mesh.cols
    return -(-(run.batch or MAX_USERS) // cols) * cols


def make_programs(
    run: RunConfig, model: LlamaConfig, chips: Chips, users: int | None = None
) -> Programs:
    """Return the programs of a run; by default for all places of users."""
    return Programs(
        model,
        run.mesh,
        run.emulated_system,
        chips.precision,
        users=users or n_places(run),
        prefetch=run.prefetch,
        modules=chips.modules,
        head=chips.head,
        layout_class=run.layout_class,
    )


def make_clock(
    run: RunConfig, plan: Plan, programs: "ProgramSource", transport: Transport
) -> "RunClock | None":
    """Return what keeps device time: on rank 0, for formats that the device has."""
    if not plan.has_device_time or transport.rank != 0:
        return None
    from galaxy_mpi.timing.estimator import Estimator
    from galaxy_mpi.timing.run_clock import RunClock
    from galaxy_mpi.timing.traced import Traced

    machine = run.emulated_machine
    estimator = Estimator(programs, machine, slowness=run.slowness, notes_waits=True)
    return RunClock(estimator, Traced(run.trace_steps))


def make_spans(run: RunConfig, transport: Transport) -> "HostSpans | None":
    """Return what notes host time, None if neither a trace nor a page needs it."""
    if run.host_trace_path is None and run.report_path is None:
        return None
    from galaxy_mpi.engine.host_trace import HostSpans
    from galaxy_mpi.timing.traced import Traced

    return HostSpans(tuple(transport.chips), Traced(run.trace_steps))


def make_observer(run: RunConfig, chips: Chips) -> "Observer | None":
    """Return what notes probabilities for a page, None without a page."""
    if run.report_path is None:
        return None
    from galaxy_mpi.engine.seen import Observer

    return Observer(chips.layout.vocab)


def make_watchers(
    run: RunConfig, chips: Chips, programs: Programs, observer: "Observer | None"
) -> list[Watcher]:
    """Return what looks at the values of every pass and step. Collective."""
    watchers: list[Watcher] = [] if observer is None else [observer.probabilities]
    if run.capture_path is None:
        return watchers
    from galaxy_mpi.engine.capture import Capture

    modes = programs.decode(), programs.prefill(PassShape.of_prompt(1))
    chips.transport.from_root(lambda: run.capture.check(*modes))  # one line, not one of every rank
    return [*watchers, Capture(run.capture_path, run.capture, chips.layout, chips.transport)]


def make_modes(
    chips: Chips,
    programs: Programs,
    clock: "RunClock | None",
    spans: "HostSpans | None" = None,
    hooks: Hooks = Hooks(),  # noqa: B008 - it cannot be changed
    *,
    watchers: Sequence[Watcher] = (),
    decode_taps: Sequence[MakeTap] = (),
    prefill_taps: Sequence[MakeTap] = (),
) -> tuple[DecodeMode, PrefillMode]:
    """Return both modes of a run, whose programs are checked against what the clock charges."""
    prefetcher = _prefetcher(programs, spans, hooks)
    decode = DecodeMode(chips, programs, prefetcher, decode_taps, watchers)
    prefill = PrefillMode(chips, programs, prefill_taps, watchers)
    for mode in (decode, prefill):
        mode.check = None if clock is None else clock.estimator.check
        mode.timeline, mode.note = spans, hooks.before_crossing
    return decode, prefill


def _prefetcher(programs: Programs, spans: "HostSpans | None", hooks: Hooks) -> Prefetcher | None:
    """Return what unpacks weights ahead, None if the run does not."""
    if not programs.prefetch:
        return None
    return Prefetcher(
        note=None if spans is None else spans.add_prefetch,
        note_fill=None if spans is None else spans.add_fill,
        note_wait=None if spans is None else spans.add_stall,
        before_unpack=hooks.before_unpack,
    )
