"""What a precision costs: ``mpirun -n 32 python -m galaxy_mpi.accuracy``.

A text goes in as the original measures it: its first tokens in one pass, then token by token.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from galaxy_mpi.blas import one_thread_per_rank

if __name__ == "__main__":
    one_thread_per_rank()

from galaxy_mpi.arrays import F32
from galaxy_mpi.checkpoints import open_model
from galaxy_mpi.command import ArgumentParser, add_transport, run_on_mesh
from galaxy_mpi.config import RunConfig
from galaxy_mpi.engine.agreement import Agreement, compare, reference_answers
from galaxy_mpi.engine.forced_text import plan_of_text
from galaxy_mpi.engine.outliers import Outlier, outliers
from galaxy_mpi.engine.plan import Plan
from galaxy_mpi.engine.teacher import Answers, forced_answers
from galaxy_mpi.errors import ConfigError, UserError
from galaxy_mpi.mesh import Mesh
from galaxy_mpi.mesh.transport import Transport
from galaxy_mpi.models import LlamaConfig
from galaxy_mpi.output import write_text
from galaxy_mpi.studies.published_accuracy import published
from galaxy_mpi.systems import SYSTEMS, Precision, chosen_system
from galaxy_mpi.systems.precision import KINDS

__all__ = ["build_parser", "main", "run_configs"]


def build_parser() -> ArgumentParser:
    """Return the parser of the command."""
    parser = ArgumentParser(
        "galaxy_mpi.accuracy",
        "Hold the answers at positions of a text against transformers in float32.",
    )
    add = parser.add_argument_group("model and text").add_argument
    add("--model", default="demo", metavar="PATH|NAME", help="as in galaxy_mpi.decode")
    add("--text", type=Path, metavar="FILE", help="UTF-8 text; required")
    add("--tokens", type=int, default=1024, metavar="N", help="its first N tokens")
    add(
        "--prefill",
        type=int,
        default=512,
        metavar="N",
        help="so many of them in one pass, the others one by one; if these are all, every "
        "position is compared, else those from the last of these on",
    )
    add("--layers", type=int, metavar="N", help="only the first N layers, of the reference too")
    add = parser.add_argument_group("emulated system").add_argument
    add("--mesh", default="8x4", metavar="RxC", help="rows x columns; as many ranks")
    add("--system", default="galaxy", metavar="NAME|FILE.py:NAME", help=" or ".join(SYSTEMS))
    add("--precision", metavar="P,...", help="performance,accuracy,float32, which is the default")
    add(
        "--optimizations",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="JSON file with the formats of each layer; may be repeated",
    )
    add("--formats", metavar="TENSOR=FORMAT,...", help="as in galaxy_mpi.decode")
    add("--by-kind", action="store_true", help="also round one kind of tensor at a time")
    add("--no-fidelity", action="store_true", help="matmuls read all bits of their inputs")
    add = parser.add_argument_group("output").add_argument
    add("--json", type=Path, metavar="FILE", help="write the figures")
    add_transport(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Compare and print a table."""

    def prepare(arguments: argparse.Namespace) -> tuple[Mesh, Callable[[Transport], None]]:
        runs = run_configs(arguments)

        def play(transport: Transport) -> None:
            _play(transport, runs, arguments)

        return runs[0].working_mesh, play

    return run_on_mesh(build_parser(), argv, prepare)


def run_configs(arguments: argparse.Namespace) -> list[RunConfig]:
    """Return the checked configurations of parsed arguments, one for each row of the table.

    Raises
    ------
    ConfigError
        If a value cannot be used.
    """
    if arguments.text is None:
        raise ConfigError("--text is missing; give a file of UTF-8 text")
    for name, value, least in (("tokens", arguments.tokens, 2), ("prefill", arguments.prefill, 1)):
        if value < least:
            raise ConfigError(f"--{name} must be at least {least}, got {value}")
    names = arguments.precision
    if names is None:
        names = "" if arguments.optimizations else "performance,accuracy,float32"
    wanted: list[dict[str, Any]] = [{"precision": name} for name in names.split(",") if name]
    wanted += [{"optimizations": path} for path in arguments.optimizations]
    if not wanted:
        raise ConfigError("--precision names nothing; give performance, accuracy or float32")
    return [
        RunConfig(
            model=arguments.model,
            prompt_tokens=((0,),),
            mesh=Mesh.parse(arguments.mesh),
            system=chosen_system(arguments.system),
            formats=arguments.formats,
            n_layers=arguments.layers,
            math_fidelity=not arguments.no_fidelity,
            json_path=arguments.json,
            **each,
        )
        for each in wanted
    ]


def _play(transport: Transport, runs: list[RunConfig], arguments: argparse.Namespace) -> None:
    plan, tokens = transport.from_root(
        lambda: plan_of_text(runs[0], arguments.text, arguments.tokens)
    )
    right, worst, error = None, list[Outlier](), None
    if transport.rank == 0:
        try:
            right, worst = _reference(arguments, tokens)
        except UserError as failure:
            error = failure
    transport.agree(error)
    rows = []
    for run in runs:
        for precision in _precisions(run, plan, arguments):
            answers = forced_answers(run, plan, transport, tokens, precision, arguments.prefill)
            if answers is not None and right is not None:
                rows.append(compare(precision.name, answers, right, tokens))
    if transport.rank != 0:
        return
    content = {
        "schema_version": 1,
        "model": arguments.model,
        "mesh": arguments.mesh,
        "system": arguments.system,
        "tokens": len(tokens),
        "prefilled": min(arguments.prefill, len(tokens)),
        "math_fidelity": not arguments.no_fidelity,
        "precisions": [
            row.to_dict() | {"published": _published(row, plan.model, arguments)} for row in rows
        ],
        "outliers": [outlier.to_dict() for outlier in worst],
    }
    print(_table(rows, plan.model, arguments))
    print("\nwhere block floats lose most (in float32):")
    print("\n".join(map(str, worst)), flush=True)
    write_text(arguments.json, json.dumps(content, indent=2) + "\n")


def _precisions(run: RunConfig, plan: Plan, arguments: argparse.Namespace) -> Iterator[Precision]:
    """Yield the whole precision of a run, and each of its kinds if that is asked for."""
    whole = run.wanted.on(run.emulated_system, plan.model)
    yield whole
    if arguments.by_kind and not run.wanted.is_float32:
        yield from (whole.only(kind) for kind in KINDS)


def _reference(arguments: argparse.Namespace, tokens: list[int]) -> tuple[Answers, list[Outlier]]:
    tensors: dict[str, list[F32]] = {}
    right = reference_answers(open_model(arguments.model, arguments.layers), tokens, tensors)
    return right, outliers({"stream": list(right.streams_LTD)} | tensors)


def _published(
    row: Agreement, model: LlamaConfig, arguments: argparse.Namespace
) -> tuple[int, int] | None:
    return published(model, arguments.mesh, arguments.system, row.precision)


def _table(rows: list[Agreement], model: LlamaConfig, arguments: argparse.Namespace) -> str:
    width = max(len("precision"), *(len(row.precision) for row in rows)) + 1
    lines = [
        f"{'precision':<{width}}{'top-1':>8}{'top-5':>8}{'logits PCC':>12}"
        f"{'worst layer PCC':>17}{'perplexity':>12}{'reference':>11}{'published top-1, top-5':>24}"
    ]
    for r in rows:
        known = _published(r, model, arguments)
        told = "-" if known is None else f"{known[0]} %, {known[1]} %"
        lines.append(
            f"{r.precision:<{width}}{r.top1:>8.1%}{r.top5:>8.1%}{r.logits_pcc:>12.5f}"
            f"{min(r.stream_pcc):>17.5f}{r.perplexity:>12.3f}{r.reference_perplexity:>11.3f}"
            f"{told:>24}"
        )
    return "\n".join([f"{rows[0].positions} positions", *lines])


if __name__ == "__main__":
    sys.exit(main())
