"""What a precision costs in accuracy: ``galaxy-mpi accuracy``.

As the original measures it: the first tokens of a text in one pass, then one at a time.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from galaxy_mpi.blas import one_thread_per_rank
from galaxy_mpi.json_values import JsonObject

if __name__ == "__main__":
    one_thread_per_rank()

from galaxy_mpi.arguments import ArgumentParser, add_transport
from galaxy_mpi.arrays import F32
from galaxy_mpi.checkpoints.model_files import open_model
from galaxy_mpi.command import run_on_mesh
from galaxy_mpi.config import RunConfig
from galaxy_mpi.engine.agreement import Agreement, compare, reference_answers
from galaxy_mpi.engine.forced_text import plan_of_text
from galaxy_mpi.engine.outliers import TABLE_HEAD, Outlier, outliers
from galaxy_mpi.engine.plan import Plan
from galaxy_mpi.engine.ran import what_ran
from galaxy_mpi.engine.teacher import Answers, forced_answers
from galaxy_mpi.errors import ConfigError, UserError
from galaxy_mpi.files import temporary_folder, write_text
from galaxy_mpi.mesh import Axis, Mesh
from galaxy_mpi.mesh.transport import Transport
from galaxy_mpi.models import LlamaConfig, Programs, chosen_layout
from galaxy_mpi.output import cell
from galaxy_mpi.program import Choice
from galaxy_mpi.studies.differences import Differences
from galaxy_mpi.studies.forced_values import BY_OP_STEPS, ForcedValues, chosen_steps
from galaxy_mpi.studies.published_accuracy import published
from galaxy_mpi.system_arguments import add_layout
from galaxy_mpi.systems import SYSTEMS, Precision, chosen_system
from galaxy_mpi.systems.precision import KINDS

__all__ = ["build_parser", "main", "run_configs"]

LEAST_PCC = 0.99
"""The first op below is named."""


def build_parser() -> ArgumentParser:
    """Return the parser of the command."""
    parser = ArgumentParser(
        "galaxy_mpi.accuracy",
        "Compare the predictions at each position of a text with transformers in float32.",
    )
    add = parser.add_argument_group("model and text").add_argument
    add("--model", default="demo", metavar="PATH|NAME", help="as in galaxy-mpi decode")
    add("--text", type=Path, metavar="FILE", help="UTF-8 text (required)")
    add("--tokens", type=int, default=1024, metavar="N", help="use the first N tokens of the text")
    add(
        "--prefill",
        type=int,
        default=512,
        metavar="N",
        help="prefill the first N of them in one pass and feed the others one at a time; "
        "predictions from the last prefilled token on are compared, or all if N is all tokens",
    )
    add("--layers", type=int, metavar="N", help="use only the first N layers, in the reference too")
    add = parser.add_argument_group("emulated system").add_argument
    add("--mesh", default="8x4", metavar="RxC", help="rows x columns of chips")
    add("--system", default="galaxy", metavar="NAME|FILE.py:NAME", help=" or ".join(SYSTEMS))
    add_layout(add)
    add(
        "--precision",
        metavar="P,...",
        help="precisions to compare (default: performance,accuracy,float32)",
    )
    add(
        "--optimizations",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="JSON file with the formats of each layer; may be repeated",
    )
    add("--formats", metavar="TENSOR=FORMAT,...", help="as in galaxy-mpi decode")
    add("--by-kind", action="store_true", help="also round only one kind of tensor at a time")
    add(
        "--by-op",
        nargs="?",
        const=BY_OP_STEPS,
        metavar="STEPS",
        help="also compare the output of every op with the float32 run, by op and by layer, in the "
        f"pass (p1) and these steps, given the same tokens (if no STEPS: {BY_OP_STEPS})",
    )
    add("--no-fidelity", action="store_true", help="matmuls use all bits of their inputs")
    add = parser.add_argument_group("output").add_argument
    add("--json", type=Path, metavar="FILE", help="write the figures")
    add_transport(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Compare and print a table."""

    def prepare(arguments: argparse.Namespace) -> tuple[Mesh, Callable[[Transport], None]]:
        words = sys.argv[1:] if argv is None else argv
        argv_told = ("galaxy_mpi.accuracy", *words)
        runs = [replace(run, argv=argv_told) for run in run_configs(arguments)]

        def play(transport: Transport) -> None:
            with ExitStack() as stack:
                folder = None
                if arguments.by_op is not None:
                    folder = stack.enter_context(temporary_folder(transport.rank))
                _play(transport, runs, arguments, folder)

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
    if arguments.by_op is not None:
        Choice(steps=arguments.by_op, option="--by-op")  # raises if it is malformed
    names = arguments.precision
    if names is None:
        names = "" if arguments.optimizations else "performance,accuracy,float32"
    wanted: list[JsonObject] = [{"precision": name} for name in names.split(",") if name]
    wanted += [{"optimizations": path} for path in arguments.optimizations]
    if not wanted:
        raise ConfigError("--precision is empty; give performance, accuracy or float32")
    return [
        RunConfig(
            model=arguments.model,
            prompt_tokens=((0,),),
            mesh=Mesh.parse(arguments.mesh),
            system=chosen_system(arguments.system),
            layout_class=chosen_layout(arguments.layout),
            formats=arguments.formats,
            n_layers=arguments.layers,
            math_fidelity=not arguments.no_fidelity,
            json_path=arguments.json,
            **each,
        )
        for each in wanted
    ]


def _play(
    transport: Transport,
    runs: list[RunConfig],
    arguments: argparse.Namespace,
    folder: Path | None,
) -> None:
    plan, tokens, choice = transport.from_root(lambda: _prepared(runs[0], arguments))
    right, worst, error = None, list[Outlier](), None
    if transport.rank == 0:
        try:
            right, worst = _reference(arguments, tokens)
        except UserError as failure:
            error = failure
    transport.agree(error)
    rows, keys, behind = list[Agreement](), list[str](), list[Differences | None]()
    values = None
    if choice is not None and folder is not None:
        values = ForcedValues(folder, runs[0], plan.model, transport, choice)
        values.run_reference(plan, tokens, arguments.prefill)
    for run in runs:
        for precision in _precisions(run, plan, arguments):
            watchers = [] if values is None or run.wanted.is_float32 else [values.other()]
            answers = forced_answers(
                run, plan, transport, tokens, precision, arguments.prefill, watchers
            )
            if answers is not None and right is not None:
                rows.append(compare(precision.name, answers, right, tokens))
                keys.append(precision.key)
                behind.append(values.differences() if values is not None and watchers else None)
    if transport.rank != 0:
        return
    content = {
        "schema_version": 1,
        "run": _what_ran(runs[0], plan, transport, keys),
        "model": arguments.model,
        "mesh": arguments.mesh,
        "system": arguments.system,
        "tokens": len(tokens),
        "prefilled": min(arguments.prefill, len(tokens)),
        "math_fidelity": not arguments.no_fidelity,
        "precisions": [
            row.to_dict()
            | {"published": _published(row, plan.model, arguments)}
            | _worst_of_ops(found)
            for row, found in zip(rows, behind, strict=True)
        ],
        "outliers": [outlier.to_dict() for outlier in worst],
    }
    print(_table(rows, plan.model, arguments))
    print("\nwhere bfp8 loses most: a channel much larger than the 15 others of its block")
    print("\n".join([TABLE_HEAD, *(one.to_text() for one in worst)]))
    for row, found in zip(rows, behind, strict=True):
        if found is not None:
            print(f"\noutputs of ops, {row.precision} against float32:")
            print(found.to_text(LEAST_PCC))
    sys.stdout.flush()
    write_text(arguments.json, json.dumps(content, indent=2) + "\n")


def _prepared(
    run: RunConfig, arguments: argparse.Namespace
) -> tuple[Plan, list[int], Choice | None]:
    """Return the plan, the tokens, and which outputs of ops to compare, None if none are.

    Wrong steps are found here, before transformers computes the reference.
    """
    plan, tokens = plan_of_text(run, arguments.text, arguments.tokens)
    if arguments.by_op is None:
        return plan, tokens, None
    return plan, tokens, chosen_steps(arguments.by_op, len(tokens), arguments.prefill)


def _worst_of_ops(found: Differences | None) -> dict[str, object]:
    """Return what a row of the report has of its ops."""
    if found is None:
        return {}
    return {name: found.to_dict(LEAST_PCC)[name] for name in ("by_op", "by_layer")}


def _what_ran(run: RunConfig, plan: Plan, on: Transport, keys: list[str]) -> dict[str, object]:
    """Return ``run`` of the report, with the formats of all rows."""
    programs = Programs(
        plan.model,
        run.mesh,
        run.emulated_system,
        plan.precision,
        users=run.working_mesh.cols,
        layout_class=run.layout_class,
    )
    planes = {axis: on.plane(axis) for axis in Axis}
    return what_ran(run, programs, planes, None, None, plan.checksums) | {"formats": keys}


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
    width = 12
    lines = [
        f"{'precision':<{width}}{'top-1':>7}{'top-5':>7}{'published':>12}{'logits PCC':>11}"
        f"{'layer PCC':>10}{'perplexity':>11}{'reference':>10}"
    ]
    for r in rows:
        known = _published(r, model, arguments)
        told = "-" if known is None else f"{known[0]} %, {known[1]} %"
        lines.append(
            f"{cell(r.precision, width)}{r.top1:>7.1%}{r.top5:>7.1%}{told:>12}{r.logits_pcc:>11.5f}"
            f"{min(r.stream_pcc):>10.5f}{r.perplexity:>11.3f}{r.reference_perplexity:>10.3f}"
        )
    return "\n".join(
        [
            f"{rows[0].positions} positions; published: top-1 and top-5 of the original;",
            "layer PCC: the worst layer's; reference: perplexity of transformers in float32",
            "",
            *lines,
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
