"""A decode step on 32 ranks next to one process of transformers, in one run, in turns.

    mpirun -n 32 python benchmarks/decode_step.py [--model demo,smollm2-135m] [--profile]
    mpirun -n 2 python benchmarks/decode_step.py --chips-per-rank 16

32 users, each some tokens in. transformers runs on rank 0, float32, two threads, the same model
sizes with random weights, while the other ranks sleep at a barrier. Every figure is the median of
all steps of all turns, on rank 0's clock. ``--profile`` says, for each model, where the processor's
time of a step goes, by kind of work, as the mean of all ranks.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from galaxy_mpi.blas import blas_kernels, one_thread_per_rank

one_thread_per_rank()

import numpy as np  # noqa: E402

from galaxy_mpi.config import RunConfig  # noqa: E402
from galaxy_mpi.engine import Engine  # noqa: E402
from galaxy_mpi.mesh import Mesh  # noqa: E402
from galaxy_mpi.mesh.mpi import MpiTransport  # noqa: E402
from galaxy_mpi.models import LlamaConfig  # noqa: E402
from galaxy_mpi.program import BoundProgram  # noqa: E402

USERS, POSITION = 32, 16

KINDS = (
    ("crossings", ("_cross", "_cross_barrier")),
    ("weights", ("wait_for", "release")),
    ("formats", ("pack", "unpack", "round", "add_terms", "pack_sum")),
    ("attention", ("attend",)),
    ("matmul", ("matmul", "multiply")),
    ("top-k", ("find_best",)),
)
"""Calls of a program by their names, as kinds of work; all others are elementwise."""


def reference(model: LlamaConfig) -> Callable[[], float]:
    """Return a function that runs a step of transformers and returns its seconds."""
    import torch
    import transformers

    torch.set_num_threads(2)
    config = transformers.LlamaConfig(
        hidden_size=model.dim,
        intermediate_size=model.hidden_dim,
        num_hidden_layers=model.n_layers,
        num_attention_heads=model.n_heads,
        num_key_value_heads=model.n_kv_heads,
        head_dim=model.head_dim,
        vocab_size=model.vocab_size,
        tie_word_embeddings=model.tie_embeddings,
    )
    network = transformers.LlamaForCausalLM(config).eval()
    state: dict[str, Any] = {}

    @torch.no_grad()
    def step() -> float:
        if not state:
            answer = network(torch.zeros((USERS, POSITION), dtype=torch.long), use_cache=True)
            state["cache"] = answer.past_key_values
        began = time.perf_counter()
        answer = network(
            torch.ones((USERS, 1), dtype=torch.long), past_key_values=state["cache"], use_cache=True
        )
        int(answer.logits[:, -1].argmax(dim=-1)[0])
        taken = time.perf_counter() - began
        answer.past_key_values.crop(-1)
        return taken

    return step


def kind_of(call: Callable[..., Any]) -> str:
    """Return the kind of work of a call; `numpy.multiply` is not a product of matrices."""
    name = "" if call is np.multiply else getattr(call, "__name__", "")
    return next((kind for kind, names in KINDS if name in names), "elementwise")


def timed_by_kind(bound: BoundProgram, seconds: dict[str, float]) -> None:
    """Run a program once, adding the processor seconds of this thread by kind."""
    clock = time.thread_time
    for call, arguments in bound.calls:
        began = clock()
        call(*arguments)
        seconds[kind_of(call)] += clock() - began


class Ours:
    """Decode steps of one model in one precision, always the same one."""

    def __init__(self, transport: MpiTransport, model: str, precision: str, mesh: Mesh) -> None:
        prompts = tuple((1 + user,) * POSITION for user in range(USERS))
        self.run = RunConfig(
            model=model, mesh=mesh, precision=precision, prompt_tokens=prompts, prefix_caching=False
        )
        self.engine = engine = Engine(self.run, transport)
        scheduler = engine.new_scheduler()
        while requests := scheduler.next_prefill():
            engine.prefill(scheduler, requests)
        self._tokens = scheduler.tokens
        self._tables = {column: scheduler.page_table(column) for column in engine.chips.columns}
        self._positions = scheduler.longest_positions()
        self._rows = [request.place for request in scheduler.active]
        self.step()

    @property
    def bound(self) -> BoundProgram:
        return self.engine.decode_mode.ready().bound

    def step(self) -> float:
        began = time.perf_counter()
        ready = self.engine.decode_mode.run(self._tokens, self._tables)
        values, tokens = ready.results("values")[0], ready.results("tokens")[0]
        self.engine.sampler.choose(values, tokens, self._rows, self._rows)
        if self.engine.clock is not None:
            self.engine.clock.step(self._positions, self._rows)
        return time.perf_counter() - began


def measure(transport: MpiTransport, name: str, mesh: Mesh, arguments: argparse.Namespace) -> None:
    """Print the figures of one model."""
    turns, steps = arguments.turns, arguments.steps
    ours = {p: Ours(transport, name, p, mesh) for p in arguments.precision.split(",")}
    model = ours["float32"].engine.plan.model
    theirs = reference(model) if transport.rank == 0 else None
    taken: dict[str, list[float]] = defaultdict(list)
    for _ in range(turns):
        if theirs is not None:
            theirs()
            taken["transformers"] += [theirs() for _ in range(steps)]
        for precision, run in ours.items():
            run.step()
            taken[precision] += [run.step() for _ in range(steps)]
    if transport.rank == 0:
        base = statistics.median(taken["transformers"])
        print(f"\n{name}: {model.n_layers} layers, dim {model.dim}, {USERS} users, mesh {mesh}")
        print(f"products of ours by {blas_kernels()}")
        print(f"{'':<14}{'step ms':>9}{'least':>9}{'most':>9}{'of transformers':>17}")
        for what, seconds in taken.items():
            median = statistics.median(seconds)
            print(
                f"{what:<14}{median * 1e3:>9.1f}{min(seconds) * 1e3:>9.1f}"
                f"{max(seconds) * 1e3:>9.1f}{median / base:>16.2f}x",
                flush=True,
            )
    if arguments.profile:
        for precision, run in ours.items():
            _profile(transport, precision, run, steps)


def _profile(transport: MpiTransport, precision: str, run: Ours, steps: int) -> None:
    seconds: dict[str, float] = defaultdict(float)
    plain, bound = BoundProgram.run, run.bound
    began, whole = time.perf_counter(), time.thread_time()
    process = time.process_time()
    BoundProgram.run = lambda self: timed_by_kind(self, seconds)  # type: ignore[method-assign]
    try:
        for _ in range(steps):
            run.step()
    finally:
        BoundProgram.run = plain  # type: ignore[method-assign]
    whole, process = time.thread_time() - whole, time.process_time() - process
    wall = time.perf_counter() - began
    seconds[f"around {len(bound.calls)} calls"] = whole - sum(seconds.values())
    seconds["prefetcher's thread"] = process - whole
    everyone = transport.gather(dict(seconds))
    if everyone is None:
        return
    n_ranks = len(everyone)
    total = sum(sum(one.values()) for one in everyone) / n_ranks / steps
    print(
        f"  {precision}: {wall / steps * 1e3:.1f} ms a step while profiled; processor time of a "
        f"rank {total * 1e3:.2f} ms a step"
    )
    for kind in seconds:
        mean = sum(one.get(kind, 0.0) for one in everyone) / n_ranks / steps
        print(f"    {kind:<26}{mean * 1e3:>8.2f} ms{mean / total:>7.0%}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo,smollm2-135m", help="names, as of decode")
    parser.add_argument("--mesh", default="8x4")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4, help="in each turn, behind one untimed")
    parser.add_argument("--chips-per-rank", type=int, default=1)
    parser.add_argument("--precision", default="float32,performance", help="which of ours")
    parser.add_argument("--profile", action="store_true")
    arguments = parser.parse_args()
    mesh = Mesh.parse(arguments.mesh)
    np.seterr(all="ignore")  # random weights
    with MpiTransport.connect(mesh, chips_per_rank=arguments.chips_per_rank) as transport:
        for name in arguments.model.split(","):
            measure(transport, name, mesh, arguments)


if __name__ == "__main__":
    main()
