"""How fast this computer runs the emulator: ``galaxy-mpi bench``.

Rank 0 first times what one core does (block floats, a matmul) while the other ranks sleep. Then all
ranks decode the prompts of the demo model, some times over. All figures are host time.
"""

import json
import os
import statistics
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path

from galaxy_mpi.blas import one_thread_per_rank
from galaxy_mpi.json_values import JsonObject

if __name__ == "__main__":
    one_thread_per_rank()

import numpy as np

from galaxy_mpi.arguments import ArgumentParser, add_transport
from galaxy_mpi.command import run_on_mesh
from galaxy_mpi.config import RunConfig
from galaxy_mpi.dtypes import BF16, BFP4, BFP8
from galaxy_mpi.engine.ran import versions
from galaxy_mpi.errors import ConfigError
from galaxy_mpi.files import check_writable, write_text
from galaxy_mpi.mesh import Mesh
from galaxy_mpi.mesh.ending import Interrupted
from galaxy_mpi.mesh.transport import Transport
from galaxy_mpi.output import named_lines, print_text

__all__ = ["build_parser", "main"]

SHAPE = (32, 8192)
"""Values that are packed and unpacked: activations of a model of dim 8,192 for 32 users."""

MATMUL = (32, 2048, 1024)
"""Rows, inner size and columns of a matmul: a shard of a model of a billion parameters."""

REPEATS = 50
"""Of what one core does; the shortest time counts."""


def build_parser() -> ArgumentParser:
    """Return the parser of the command."""
    parser = ArgumentParser(
        "galaxy_mpi.bench",
        "Measure how fast this computer runs the emulator: block floats and a matmul on one core, "
        "and decoding on all ranks. Host time only; galaxy-mpi estimate has device time.",
    )
    add = parser.add_argument_group("run").add_argument
    add("--model", default="demo", metavar="PATH|NAME", help="as in galaxy-mpi decode")
    add("--mesh", default="8x4", metavar="RxC", help="rows x columns of chips")
    add("--precision", default="performance", metavar="NAME", help="as in galaxy-mpi decode")
    add("--new-tokens", type=int, default=16, metavar="N", help="tokens per user and turn")
    add("--turns", type=int, default=3, metavar="N", help="runs; their median is shown")
    add = parser.add_argument_group("output").add_argument
    add("--json", type=Path, metavar="FILE", help="write the figures")
    add_transport(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print a table."""
    words = list(sys.argv[1:] if argv is None else argv)

    def prepare(arguments: Namespace) -> tuple[Mesh, Callable[[Transport], None]]:
        for option, value, least in (
            ("--new-tokens", arguments.new_tokens, 2),  # the first is prefill's
            ("--turns", arguments.turns, 1),
        ):
            if not least <= value <= 10**6:
                raise ConfigError(f"{option} must be {least} to {10**6}, got {value}")
        check_writable("--json", arguments.json)
        run = RunConfig(
            model=arguments.model,
            mesh=Mesh.parse(arguments.mesh),
            precision=arguments.precision,
            max_new_tokens=arguments.new_tokens,
        )

        def play(transport: Transport) -> None:
            one_core = transport.from_root(one_core_figures)
            runs = [_host_figures(run, transport) for _ in range(arguments.turns)]
            if transport.rank != 0:
                return
            found: JsonObject = {
                "schema_version": 1,
                "run": {"argv": ["galaxy_mpi.bench", *words], "versions": versions()},
                "mesh": str(run.mesh),
                "ranks": transport.n_ranks,
                "cores": len(os.sched_getaffinity(0)),
                "one_core": one_core,
                "decode": {name: [each[name] for each in runs] for name in _FIGURES},
            }
            print_text(_table(found, arguments.model))
            write_text(arguments.json, json.dumps(found, indent=2) + "\n")

        return run.mesh, play

    return run_on_mesh(build_parser(), words, prepare)


_FIGURES = ("decode_step_s", "compute_s", "collectives_s", "prefill_s", "load_s")


def _host_figures(run: RunConfig, transport: Transport) -> dict[str, float]:
    """Decode the prompts; return the figures of rank 0. Collective."""
    from galaxy_mpi.engine import Engine  # here, not above: the help needs none

    with Engine(run, transport) as engine:
        report = engine.generate()
    if report is not None and report.is_interrupted:  # the run ended early, not the turns
        raise Interrupted
    host = {} if report is None else report.host()
    return {name: float(host[name]) for name in _FIGURES if name in host}


def one_core_figures() -> dict[str, float]:
    """Return nanoseconds per value of each format's codec, and GFLOPS of a matmul."""
    generator = np.random.default_rng(0)
    values = generator.standard_normal(SHAPE).astype(np.float32)
    found = {}
    for dtype in (BFP8, BFP4, BF16):
        codec, packed, out = dtype.codec(SHAPE), dtype.pack(values), np.empty_like(values)
        for name, work in (
            ("pack", lambda c=codec, p=packed: c.pack(values, p)),
            ("unpack", lambda c=codec, p=packed, o=out: c.unpack(p, o)),
        ):
            found[f"{name}_{dtype.name}_ns"] = _shortest_s(work) / values.size * 1e9
    m, k, n = MATMUL
    x = generator.standard_normal((m, k)).astype(np.float32)
    w = generator.standard_normal((k, n)).astype(np.float32)
    product = np.empty((m, n), np.float32)
    found["matmul_gflops"] = 2e-9 * m * k * n / _shortest_s(lambda: np.matmul(x, w, product))
    return found


def _shortest_s(work: Callable[[], object]) -> float:
    """Return the shortest time, which is the least disturbed."""
    taken = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return min(taken)


def _table(found: JsonObject, model: str) -> str:
    one_core, ran = found["one_core"], found["run"]["versions"]

    def in_ms(name: str) -> str:
        of_turns = [seconds * 1e3 for seconds in found["decode"][name]]
        middle = statistics.median(of_turns)
        return f"{middle:.1f} ms ({min(of_turns):.1f} to {max(of_turns):.1f})"

    rows = [
        ("mesh, ranks, cores", f"{found['mesh']}, {found['ranks']}, {found['cores']}"),
        ("versions", f"galaxy_mpi {ran['galaxy_mpi']}, numpy {ran['numpy']}, {ran['blas']}"),
        ("codec of block floats", ran["codec"]),
    ]
    for dtype in (BFP8, BFP4, BF16):
        pack, unpack = (one_core[f"{name}_{dtype.name}_ns"] for name in ("pack", "unpack"))
        rows.append((f"one core: {dtype.name}", f"pack {pack:.2f}, unpack {unpack:.2f} ns/value"))
    m, k, n = MATMUL
    rows += [
        ("one core: matmul", f"{one_core['matmul_gflops']:.1f} GFLOPS ({m} x {k} x {n}, float32)"),
        (f"host: decode step, {model}", in_ms("decode_step_s")),
        ("  compute", in_ms("compute_s")),
        ("  collectives", in_ms("collectives_s")),
        ("host: prefill", in_ms("prefill_s")),
        ("host: loading", in_ms("load_s")),
    ]
    turns = len(found["decode"]["decode_step_s"])
    note = f"decoding: median of {turns} (least to most); one core: shortest of {REPEATS}"
    return "\n".join([*named_lines(rows), "", note])


if __name__ == "__main__":
    sys.exit(main())
