"""Thousands of steps with users coming and going: memory as a slope, and tokens.

    mpirun -n 4 python benchmarks/soak.py [--steps N] [--mesh RxC] [--layers N]

Users have prompts of 1 to 48 tokens and stay for 40 of their own, or until they end. Printed is
the slope of each rank's memory (proportional set size) over the second half of the run, by least
squares, with its standard error, and how much of it is the run's results, which are kept to its
end: tokens of users, times of steps. The rest is flat if its slope is less than two errors. The
last users' tokens are compared with a fresh run of their prompts alone. Ends with 1 if memory
grows or tokens differ.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import fields, is_dataclass
from itertools import chain, pairwise

from galaxy_mpi.blas import one_thread_per_rank

one_thread_per_rank()

from galaxy_mpi.config import RunConfig  # noqa: E402
from galaxy_mpi.engine import Engine  # noqa: E402
from galaxy_mpi.engine.memory import proportional_set_bytes  # noqa: E402
from galaxy_mpi.mesh import Mesh  # noqa: E402
from galaxy_mpi.mesh.mpi import MpiTransport  # noqa: E402

N_COMPARED = 4
N_SAMPLES = 200
"""Of memory in a run."""


def slope(samples: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return the slope of (x, y) by least squares and its standard error.

    Neighbouring samples are alike (memory moves in steps), so the error is that of as many
    independent ones as the residuals' correlation leaves.
    """
    n = len(samples)
    mean_x, mean_y = (sum(column) / n for column in zip(*samples, strict=True))
    spread = sum((x - mean_x) ** 2 for x, _ in samples)
    value = sum((x - mean_x) * (y - mean_y) for x, y in samples) / spread
    rest = [y - mean_y - value * (x - mean_x) for x, y in samples]
    square = sum(r * r for r in rest)
    if not square:
        return value, 0.0
    alike = max(0.0, sum(a * b for a, b in pairwise(rest)) / square)
    independent = max(3.0, n * (1 - alike) / (1 + alike))
    return value, math.sqrt(square / (independent - 2) / (spread / n) / n)


def bytes_of(things: Iterable[object]) -> int:
    """Return the memory of objects and all that they hold, each object counted once."""
    seen, total, left = set[int](), 0, list(things)
    while left:
        thing = left.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        total += sys.getsizeof(thing)
        if isinstance(thing, dict):
            left += chain(thing.keys(), thing.values())
        elif isinstance(thing, (list, tuple)):
            left += thing
        elif is_dataclass(thing):
            left += [getattr(thing, field.name) for field in fields(thing)]
    return total


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--mesh", default="2x2")
    parser.add_argument("--layers", type=int)
    arguments = parser.parse_args()
    mesh, draw = Mesh.parse(arguments.mesh), random.Random(7)
    batch = 4 * mesh.cols
    n_users = arguments.steps * batch // 20 + batch  # more than are served
    prompts = tuple(
        tuple(draw.randrange(3, 1000) for _ in range(draw.randint(1, 48))) for _ in range(n_users)
    )

    def run_of(chosen: tuple[tuple[int, ...], ...]) -> RunConfig:
        return RunConfig(
            mesh=mesh,
            batch=batch,
            max_new_tokens=40,
            prompt_tokens=chosen,
            n_layers=arguments.layers,
            prefix_caching=False,
        )

    samples: list[tuple[float, float]] = []
    with MpiTransport.connect(mesh) as transport:
        with Engine(run_of(prompts), transport) as engine:
            scheduler, began = engine.new_scheduler(), time.perf_counter()
            every = max(1, arguments.steps // N_SAMPLES)
            while engine.times.n_steps < arguments.steps and not scheduler.is_done:
                while requests := scheduler.next_prefill():
                    engine.prefill(scheduler, requests)
                if not scheduler.active:
                    continue
                engine.decode(scheduler)
                n = engine.times.n_steps
                if n % every == 0:
                    samples.append((float(n), float(proportional_set_bytes())))
            seconds = time.perf_counter() - began
            clocks = [] if engine.clock is None else [engine.clock.times]
            results = bytes_of([scheduler.requests, engine.chosen, engine.times, *clocks])
            # The prompts of all users were there from the start.
            results -= bytes_of([request.prompt for request in scheduler.requests])
            done = [r for r in scheduler.requests if r.ended is not None][-N_COMPARED:]
            then = [list(r.generated) for r in done]
            alone = tuple(prompts[r.number] for r in done)
            n_steps, n_done = engine.times.n_steps, scheduler.n_done
        with Engine(run_of(alone), transport) as engine:
            scheduler = engine.new_scheduler()
            while not scheduler.is_done:
                while requests := scheduler.next_prefill():
                    engine.prefill(scheduler, requests)
                if scheduler.active:
                    engine.decode(scheduler)
            same = [list(r.generated) for r in scheduler.requests] == then
        value, error = slope(samples[len(samples) // 2 :])
        kept = results / n_steps
        found = transport.gather((value - kept, error, kept, samples[-1][1]))
    if found is None:
        return 0
    print(f"mesh {mesh}: {n_steps} steps, {n_done} users, {seconds:.0f} s")
    grows = False
    for rank, (value, error, kept, last) in enumerate(found):
        verdict = "grows" if value > 2 * error and value * n_steps > 2**12 else "flat"
        grows |= verdict == "grows"
        print(
            f"rank {rank:>2}: {last / 2**20:6.1f} MiB; bytes a step: {kept:.0f} of results, "
            f"others {value:+.0f} +- {error:.0f}: {verdict}"
        )
    print(f"tokens of the last {len(then)} users: {'the same' if same else 'OTHERS'} as alone")
    return int(grows or not same)


if __name__ == "__main__":
    sys.exit(main())
