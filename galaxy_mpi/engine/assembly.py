"""Make the report of a run from what its ranks know; on rank 0 alone."""

from collections.abc import Mapping, Sequence

from galaxy_mpi.checkpoints.tokenizer import Tokenizer
from galaxy_mpi.config import RunConfig
from galaxy_mpi.engine.host_trace import host_trace
from galaxy_mpi.engine.modes import DecodeMode, PrefillMode
from galaxy_mpi.engine.outcome import RankOutcome
from galaxy_mpi.engine.plan import Plan
from galaxy_mpi.engine.ran import what_ran
from galaxy_mpi.engine.report import Report
from galaxy_mpi.engine.request import Request
from galaxy_mpi.engine.seen import Observer, Seen
from galaxy_mpi.engine.times import RunTimes
from galaxy_mpi.mesh import Axis
from galaxy_mpi.mesh.plane import Plane
from galaxy_mpi.models.programs import Programs
from galaxy_mpi.timing import Machine
from galaxy_mpi.timing.device_run import DeviceRun
from galaxy_mpi.timing.run_clock import RunClock
from galaxy_mpi.timing.trace import Trace

__all__ = ["report_of"]


def report_of(
    run: RunConfig,
    plan: Plan,
    programs: Programs,
    planes: Mapping[Axis, Plane],
    tokenizer: Tokenizer,
    requests: list[Request],
    times: RunTimes,
    ranks: Sequence[RankOutcome],
    *,
    product: str,
    clock: RunClock | None,
    observer: Observer | None,
    is_interrupted: bool,
) -> Report:
    """Return the report of a run.

    Parameters
    ----------
    run : RunConfig
    plan : Plan
    programs : Programs
    planes : mapping of Axis to Plane
    tokenizer : Tokenizer
    requests : list of Request
    times : RunTimes
    ranks : sequence of RankOutcome
        In order of ranks; of rank 0 alone if the run was interrupted.
    product : str
        What multiplied the largest weights.
    clock : RunClock or None
        What is traced in device time; None without device time.
    observer : Observer or None
        Of rank 0, for a page.
    is_interrupted : bool
    """
    machine = run.emulated_machine if plan.has_device_time else None
    return Report(
        run=run,
        precision=plan.precision.name,
        model=plan.model,
        prompts=plan.prompts,
        requests=requests,
        text=[tokenizer.decode(request.generated) for request in requests],
        times=times,
        device=_device_run(run, programs, machine, clock),
        host_trace=_host_trace(run, ranks),
        decode=[rank.totals[DecodeMode.name] for rank in ranks],
        prefill=[rank.totals[PrefillMode.name] for rank in ranks],
        memory=[chip for rank in ranks for chip in rank.memory],
        seen=_seen(observer, ranks, requests, tokenizer),
        ran=what_ran(run, programs, planes, machine, plan.sampling, plan.checksums, product),
        is_interrupted=is_interrupted,
    )


def _device_run(
    run: RunConfig,
    programs: Programs,
    machine: Machine | None,
    clock: RunClock | None,
) -> DeviceRun | None:
    if clock is None or machine is None:
        return None
    return DeviceRun.of(programs, machine, clock, run.slowness)


def _host_trace(run: RunConfig, ranks: Sequence[RankOutcome]) -> Trace | None:
    if run.host_trace_path is None:
        return None
    spans = [rank.spans for rank in ranks if rank.spans is not None]
    return host_trace(run.working_mesh, spans) if spans else None


def _seen(
    observer: Observer | None,
    ranks: Sequence[RankOutcome],
    requests: list[Request],
    tokenizer: Tokenizer,
) -> Seen | None:
    spans = ranks[0].spans
    if observer is None or spans is None:
        return None
    return observer.seen([rank.sums for rank in ranks], requests, tokenizer, spans)
