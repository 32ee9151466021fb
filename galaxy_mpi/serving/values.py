"""Traffic with real tokens, on ranks: the run's device time must agree with the simulation."""

from dataclasses import dataclass

from galaxy_mpi.arrays import added
from galaxy_mpi.config import RunConfig
from galaxy_mpi.engine import Engine
from galaxy_mpi.engine.request import Request
from galaxy_mpi.engine.scheduler import Scheduler
from galaxy_mpi.json_values import Json, JsonObject
from galaxy_mpi.serving.service import Totals
from galaxy_mpi.serving.traffic import Traffic
from galaxy_mpi.timing.times import DeviceTimes

__all__ = ["EngineValues", "Told", "run_config", "told"]


class EngineValues:
    """Lets an engine compute passes and steps; see `galaxy_mpi.serving.service.Values`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        engine.times.start()

    def prefill(self, scheduler: Scheduler, requests: list[Request]) -> None:
        """Run a pass."""
        self._engine.prefill(scheduler, requests)

    def decode(self, scheduler: Scheduler) -> None:
        """Run a step."""
        self._engine.decode(scheduler)

    def cancel(self, scheduler: Scheduler, request: Request) -> None:
        """End a request."""
        scheduler.cancel(request.number)
        self._engine.sampler.forget(request.number)


@dataclass(frozen=True)
class Told:
    """Result of a run with values."""

    tokens: list[list[int]]
    """Generated tokens, by request."""
    differences: list[str]
    """Where the run's device time disagrees with the simulation; empty if they agree."""
    host: dict[str, float]
    """Seconds on this computer."""

    def to_dict(self) -> JsonObject:
        """Return ``values`` of a report."""
        return {
            "tokens": self.tokens,
            "device_times_are_equal": not self.differences,
            "host": self.host,
        }


def run_config(traffic: Traffic, **of_run: Json) -> RunConfig:
    """Return the configuration of a run on the same system, with more arguments of `RunConfig`."""
    what_if, limits = traffic.what_if, traffic.limits
    return RunConfig(
        model=what_if.model,
        prompt_tokens=((0,),),  # requests arrive later
        batch=what_if.users,
        mesh=what_if.programs.asked_mesh,
        system=what_if.system_name if what_if.system is None else what_if.system,
        precision=what_if.precision,
        optimizations=what_if.optimizations,
        formats=what_if.formats,
        layout_class=what_if.layout_class,
        n_layers=what_if.layers,
        prefetch=what_if.prefetch,
        page_size=limits.page_size,
        cache_blocks=limits.n_blocks,
        prefix_caching=traffic.prefix_caching,
        machine=what_if.machine,
        constants=what_if.constants,
        slow_chips=what_if.slow_chips,
        slow_links=what_if.slow_links,
        **of_run,
    )


def told(engine: Engine, requests: list[Request], totals: Totals) -> Told | None:
    """Return the result on rank 0, None elsewhere."""
    if engine.clock is None:
        return None
    times, tokens = engine.times, [request.generated for request in requests]
    host = {
        "prefill_s": added(times.prefill_s),
        "decode_s": added(times.step_s),
        "load_s": times.load_s,
    }
    return Told(tokens, _differences(engine.clock.times, totals), host)


def _differences(times: DeviceTimes, totals: Totals) -> list[str]:
    """Compare the times of the run with the simulated ones; one line per kind."""
    lines = []
    for kinds, ran, played in (
        ("passes", times.pass_s, totals.passes_s),
        ("steps", times.step_s, totals.steps_s),
    ):
        if ran == played:
            continue
        same = [one == other for one, other in zip(ran, played, strict=False)]
        at = same.index(False) if False in same else len(same)
        lines.append(
            f"device times of {kinds} differ: {len(ran)} in the run, {len(played)} simulated; "
            f"first difference at {at + 1}: {ran[at : at + 1]} s, {played[at : at + 1]} s"
        )
    return lines
