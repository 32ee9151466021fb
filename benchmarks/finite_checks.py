"""What looking at values costs: at the logits in every run, after every op with ``--check``.

    python benchmarks/finite_checks.py [--model NAME] [--layers N] [--mesh RxC] [--steps N]

All chips are in this process. A decode step is run; then its calls that look at the logits are run
by themselves, in turns with it. ``--check`` does more than look, and overwrites what was looked at:
of it the whole step is told, against one without.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from galaxy_mpi.blas import one_thread_per_rank

one_thread_per_rank()

from galaxy_mpi.config import RunConfig  # noqa: E402
from galaxy_mpi.engine import Engine  # noqa: E402
from galaxy_mpi.mesh import Mesh  # noqa: E402
from galaxy_mpi.mesh.local_transport import LocalTransport  # noqa: E402

LOOK = "_require_finite"

Calls = list[tuple[Callable[..., Any], tuple[Any, ...]]]


def seconds_of(calls: Calls) -> float:
    """Return the seconds that calls take."""
    began = time.perf_counter()
    for call, arguments in calls:
        call(*arguments)
    return time.perf_counter() - began


def measured(run: RunConfig, n_steps: int) -> tuple[float, float, int]:
    """Return the median seconds of a step, of looking at values in it, and how many looks."""
    with Engine(run, LocalTransport(run.working_mesh)) as engine:
        scheduler = engine.new_scheduler()
        while requests := scheduler.next_prefill():
            engine.prefill(scheduler, requests)
        calls = engine.decode_mode.ready().bound.calls
        looks = [call for call in calls if getattr(call[0], "__name__", "") == LOOK]
        step_s, look_s = [], []
        for _ in range(n_steps):
            began = time.perf_counter()
            engine.decode(scheduler)
            step_s.append(time.perf_counter() - began)
            look_s.append(0.0 if run.check else seconds_of(looks))
    return statistics.median(step_s), statistics.median(look_s), len(looks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--layers", type=int)
    parser.add_argument("--mesh", default="2x2")
    parser.add_argument("--steps", type=int, default=30)
    arguments = parser.parse_args()
    run = RunConfig(
        model=arguments.model,
        n_layers=arguments.layers,
        mesh=Mesh.parse(arguments.mesh),
        max_new_tokens=arguments.steps + 2,
        prompt_tokens=((1, 2, 3),) * 32,
    )
    step_s, look_s, n_looks = measured(run, arguments.steps)
    checked_s, _, _ = measured(replace(run, check=True), arguments.steps)
    print(f"step {step_s * 1e3:.1f} ms, {n_looks} looks at logits {look_s * 1e6:.0f} us: "
          f"{look_s / step_s:.2%} of it")  # fmt: skip
    print(f"step with --check {checked_s * 1e3:.1f} ms: {checked_s / step_s:.2f} times as long")


if __name__ == "__main__":
    main()
