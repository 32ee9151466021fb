"""What a precision costs: ``mpirun -n 32 python -m galaxy_mpi.accuracy``."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from galaxy_mpi.blas import one_thread_per_rank

if __name__ == "__main__":
    one_thread_per_rank()

from galaxy_mpi.checkpoints import open_model
from galaxy_mpi.command import ArgumentParser, add_transport, run_on_mesh
from galaxy_mpi.config import RunConfig
from galaxy_mpi.engine.agreement import Agreement, compare, reference_answers
from galaxy_mpi.engine.plan import Plan, make_plan
from galaxy_mpi.engine.teacher import forced_answers
from galaxy_mpi.errors import ConfigError, UserError
from galaxy_mpi.fields import read_bounded
from galaxy_mpi.mesh import Mesh
from galaxy_mpi.mesh.transport import PlaneTransport
from galaxy_mpi.output import write_text
from galaxy_mpi.systems import SYSTEMS
from galaxy_mpi.systems.precision import KINDS, PRECISIONS

__all__ = ["build_parser", "main"]

_MOST_TEXT_BYTES = 2**28


def build_parser() -> ArgumentParser:
    """Return the parser of the command."""
    parser = ArgumentParser(
        "galaxy_mpi.accuracy",
        "Hold the answers at every position of a text against transformers in float32.",
    )
    add = parser.add_argument
    add("--model", default="demo", metavar="PATH|NAME", help="as in galaxy_mpi.decode")
    add("--text", type=Path, required=True, metavar="FILE", help="UTF-8 text")
    add("--tokens", type=int, default=512, metavar="N", help="its first N tokens")
    add("--mesh", default="8x4", metavar="RxC", help="rows x columns; as many ranks")
    add("--layers", type=int, metavar="N", help="only the first N layers, of the reference too")
    add("--system", default="galaxy", help=" or ".join(SYSTEMS))
    add("--precision", default="performance,accuracy,float32", metavar="P,...", help="which")
    add("--by-kind", action="store_true", help="also round one kind of tensor at a time")
    add("--no-fidelity", action="store_true", help="matmuls read all bits of their inputs")
    add("--json", type=Path, metavar="FILE", help="write the figures")
    add_transport(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Compare and print a table."""

    def prepare(arguments: argparse.Namespace) -> tuple[Mesh, Callable[[PlaneTransport], None]]:
        if arguments.tokens < 2:
            raise ConfigError(f"--tokens must be at least 2, got {arguments.tokens}")
        runs = [
            RunConfig(
                model=arguments.model,
                prompt_tokens=((0,),),
                mesh=Mesh.parse(arguments.mesh),
                system=arguments.system,
                precision=precision,
                n_layers=arguments.layers,
                math_fidelity=not arguments.no_fidelity,
                json_path=arguments.json,
            )
            for precision in arguments.precision.split(",")
        ]

        def play(transport: PlaneTransport) -> None:
            _play(transport, runs, arguments)

        return runs[0].working_mesh, play

    return run_on_mesh(build_parser(), argv, prepare)


def _play(transport: PlaneTransport, runs: list[RunConfig], arguments: argparse.Namespace) -> None:
    plan, tokens = transport.from_root(lambda: _plan(runs[0], arguments.text, arguments.tokens))
    right, error = None, None
    if transport.rank == 0:
        try:
            right = reference_answers(open_model(arguments.model, arguments.layers), tokens)
        except UserError as failure:
            error = failure
    transport.agree(error)
    rows = []
    for run in runs:
        whole = PRECISIONS[run.precision]
        kinds = KINDS if arguments.by_kind and run.precision != "float32" else ()
        for precision in (whole, *(whole.only(kind) for kind in kinds)):
            answers = forced_answers(run, plan, transport, tokens, precision)
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
        "math_fidelity": not arguments.no_fidelity,
        "precisions": [row.to_dict() for row in rows],
    }
    print(_table(rows), flush=True)
    write_text(arguments.json, json.dumps(content, indent=2) + "\n")


def _plan(run: RunConfig, text: Path, n_tokens: int) -> tuple[Plan, list[int]]:
    plan, tokenizer = make_plan(run)
    try:
        content = read_bounded(text, _MOST_TEXT_BYTES).decode("utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(f"--text {text} cannot be read as UTF-8: {error}") from None
    # Of a long text only the beginning is looked at; no token is longer than that.
    tokens = tokenizer.encode(content[: 128 * n_tokens], 1)[:n_tokens]
    most = min(plan.model.max_seq_len, plan.limits.n_positions)
    if not 2 <= len(tokens) <= most:
        raise ConfigError(f"--text {text} has {len(tokens)} tokens; 2 to {most} can be compared")
    return plan, tokens


def _table(rows: list[Agreement]) -> str:
    width = max(len("precision"), *(len(row.precision) for row in rows)) + 1
    lines = [
        f"{'precision':<{width}}{'top-1':>8}{'top-5':>8}{'logits PCC':>12}"
        f"{'worst layer PCC':>17}{'perplexity':>12}{'reference':>11}"
    ]
    lines += [
        f"{r.precision:<{width}}{r.top1:>8.1%}{r.top5:>8.1%}{r.logits_pcc:>12.5f}"
        f"{min(r.stream_pcc):>17.5f}{r.perplexity:>12.3f}{r.reference_perplexity:>11.3f}"
        for r in rows
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
