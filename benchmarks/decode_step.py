"""A decode step on 32 ranks beside one process of transformers, in one run, in turns.

    mpirun -n 32 python benchmarks/decode_step.py [--model demo,smollm2-135m] [--profile]

32 users, each some tokens in. transformers runs on rank 0, float32, two threads, the same model
sizes with random weights, while the other ranks sleep in a meeting. Every figure is the median of
all steps of all turns, on rank 0's clock. ``--profile`` says, for each model, where the processor's
time of a step goes, by kind of work, as the mean of all ranks.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from galaxy_mpi.blas import one_thread_per_rank

one_thread_per_rank()

import numpy as np  # noqa: E402

from galaxy_mpi.config import RunConfig  # noqa: E402
from galaxy_mpi.dtypes.block_float import BlockFloat  # noqa: E402
from galaxy_mpi.dtypes.plain_float import BFloat16, Float32  # noqa: E402
from galaxy_mpi.engine import Engine  # noqa: E402
from galaxy_mpi.engine.modes import DecodeMode, ModeTotals  # noqa: E402
from galaxy_mpi.mesh import Mesh  # noqa: E402
from galaxy_mpi.mesh.board import SharedBoard  # noqa: E402
from galaxy_mpi.mesh.mpi import MpiTransport  # noqa: E402
from galaxy_mpi.models import LlamaConfig  # noqa: E402
from galaxy_mpi.prefetch.circular_buffer import CircularBuffer  # noqa: E402
from galaxy_mpi.systems.matrix_unit import MatrixUnit  # noqa: E402
from galaxy_mpi.systems.modules import Attention  # noqa: E402

USERS, POSITION = 32, 16
PRECISIONS = ("float32", "performance")

KINDS = {
    "arithmetic": [(MatrixUnit, "__call__"), (Attention, "decode")],
    "formats": [
        (kind, name)
        for kind in (BlockFloat, BFloat16, Float32)
        for name in ("pack", "unpack", "round", "pack_rows", "unpack_rows")
    ],
    "meeting": [(SharedBoard, "meet")],
    "weights": [(CircularBuffer, "pop")],
}
"""What is timed as one kind of work; the rest of a step is Python and numpy around it."""


def reference(model: LlamaConfig) -> Callable[[], float]:
    """Return what runs a step of transformers and says how long it took."""
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


@contextmanager
def timed_by_kind() -> Iterator[dict[str, float]]:
    """Yield the processor seconds of this thread by kind, what is nested counted once."""
    seconds: dict[str, float] = defaultdict(float)
    stack: list[float] = []
    kept = []
    for kind, places in KINDS.items():
        for owner, name in places:
            plain = getattr(owner, name)

            def timed(*args: Any, plain: Any = plain, kind: str = kind, **options: Any) -> Any:
                began = time.thread_time()
                stack.append(0.0)
                try:
                    return plain(*args, **options)
                finally:
                    taken = time.thread_time() - began
                    seconds[kind] += taken - stack.pop()
                    if stack:
                        stack[-1] += taken

            kept.append((owner, name, plain))
            setattr(owner, name, timed)
    try:
        yield seconds
    finally:
        for owner, name, plain in kept:
            setattr(owner, name, plain)


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
        engine.leave_mode()
        self._tokens, self._table = scheduler.tokens, scheduler.page_table(engine.chip.column)
        self._rows = [request.place for request in scheduler.active]
        self._mode: Any = None

    def step(self) -> float:
        began = time.perf_counter()
        logits = self._mode.logits(self._tokens, self._table)
        self.engine.sampler.sample(self._mode.ccl, logits, self._rows, self._rows)
        return time.perf_counter() - began

    @contextmanager
    def mode(self) -> Iterator[None]:
        self._mode = DecodeMode(self.engine.chip, self.run, ModeTotals(), None)
        self.step()
        yield
        self._mode.leave()


def measure(
    transport: MpiTransport, name: str, mesh: Mesh, turns: int, steps: int, profile: bool
) -> None:
    """Print the figures of one model."""
    ours = {p: Ours(transport, name, p, mesh) for p in PRECISIONS}
    model = ours["float32"].engine.plan.model
    theirs = reference(model) if transport.rank == 0 else None
    taken: dict[str, list[float]] = defaultdict(list)
    for _ in range(turns):
        if theirs is not None:
            theirs()
            taken["transformers"] += [theirs() for _ in range(steps)]
        for precision, run in ours.items():
            with run.mode():
                taken[precision] += [run.step() for _ in range(steps)]
    if transport.rank == 0:
        base = statistics.median(taken["transformers"])
        print(f"\n{name}: {model.n_layers} layers, dim {model.dim}, {USERS} users, mesh {mesh}")
        print(f"{'':<14}{'step ms':>9}{'least':>9}{'most':>9}{'of transformers':>17}")
        for what, seconds in taken.items():
            median = statistics.median(seconds)
            print(
                f"{what:<14}{median * 1e3:>9.1f}{min(seconds) * 1e3:>9.1f}"
                f"{max(seconds) * 1e3:>9.1f}{median / base:>16.2f}x",
                flush=True,
            )
    if profile:
        for precision, run in ours.items():
            _profile(transport, precision, run, steps)


def _profile(transport: MpiTransport, precision: str, run: Ours, steps: int) -> None:
    with run.mode(), timed_by_kind() as seconds:
        seconds.clear()
        began, whole = time.perf_counter(), time.thread_time()
        process = time.process_time()
        for _ in range(steps):
            run.step()
        whole, process = time.thread_time() - whole, time.process_time() - process
        wall = time.perf_counter() - began
    seconds["Python and numpy around"] = whole - sum(seconds.values())
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
    parser.add_argument("--profile", action="store_true")
    arguments = parser.parse_args()
    mesh = Mesh.parse(arguments.mesh)
    np.seterr(all="ignore")  # random weights
    with MpiTransport.connect(mesh) as transport:
        for name in arguments.model.split(","):
            measure(transport, name, mesh, arguments.turns, arguments.steps, arguments.profile)


if __name__ == "__main__":
    main()
