"""From TT-Transformers to the Galaxy, one optimization at a time: ``galaxy-mpi compare``.

``--timing-only`` needs no ranks and no weights.
"""

import argparse
import csv
import io
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from galaxy_mpi.blas import one_thread_per_rank
from galaxy_mpi.json_values import JsonObject

if __name__ == "__main__":
    one_thread_per_rank()

from galaxy_mpi.arguments import ArgumentParser, add_transport
from galaxy_mpi.command import run_alone, run_on_mesh
from galaxy_mpi.config import RunConfig, formats
from galaxy_mpi.engine.ran import config_of, versions, what_ran
from galaxy_mpi.errors import ConfigError
from galaxy_mpi.files import check_page, check_writable, write_all
from galaxy_mpi.mesh import Mesh
from galaxy_mpi.mesh.transport import Transport
from galaxy_mpi.models import LlamaConfig, chosen_layout
from galaxy_mpi.plot import grouped_bars_png
from galaxy_mpi.studies.comparison import Row, device_figures, rows_of, stored, table, to_dict
from galaxy_mpi.studies.host_steps import host_figures
from galaxy_mpi.studies.ideas import Variant, variants
from galaxy_mpi.studies.what_if import WhatIf
from galaxy_mpi.system_arguments import add_formats, add_layout, add_machine
from galaxy_mpi.timing import Machine
from galaxy_mpi.timing.bands import Conditions

__all__ = ["build_parser", "main"]


def build_parser() -> ArgumentParser:
    """Return the parser of the command."""
    parser = ArgumentParser(
        "galaxy_mpi.compare",
        "Turn the generic system into the Galaxy, one optimization at a time, and show each gain.",
    )
    add = parser.add_argument_group("model and step").add_argument
    add("--model", default="demo", metavar="PATH|NAME", help="as in galaxy-mpi decode")
    add("--layers", type=int, metavar="N", help="use only the first N layers")
    add("--users", type=int, default=32, metavar="N", help="users of a decode step")
    add(
        "--position",
        type=int,
        default=128,
        metavar="N",
        help="position of the step, for device time",
    )
    add("--timing-only", action="store_true", help="device time only, without weights or ranks")
    add = parser.add_argument_group("emulated system").add_argument
    add("--mesh", default="8x4", metavar="RxC", help="rows x columns of chips")
    add_layout(add)
    add_formats(add, "performance (default), accuracy or float32 (no device time)")
    add_machine(add)
    add = parser.add_argument_group("host time").add_argument
    add("--turns", type=int, default=3, metavar="N", help="runs of each variant on the host")
    add = parser.add_argument_group("output").add_argument
    add("--json", type=Path, metavar="FILE", help="write the rows as JSON")
    add("--csv", type=Path, metavar="FILE", help="write the rows as CSV")
    add("--plot", type=Path, metavar="FILE.png", help="draw the rows")
    add("--report", type=Path, metavar="FILE.html", help="write a page to look at")
    add_transport(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Compare and print a table."""
    words = list(sys.argv[1:] if argv is None else argv)
    told = ("galaxy_mpi.compare", *words)
    if "--timing-only" in words:
        return run_alone(build_parser(), words, lambda asked: _prepare_timing(asked, told))
    return run_on_mesh(build_parser(), words, lambda asked: _prepare_values(asked, told))


def _check(arguments: argparse.Namespace) -> None:
    """Raise if a number is out of range."""
    for option, value, most in (
        ("--turns", arguments.turns, 10**6),
        ("--position", arguments.position, 131_072),
    ):
        if not 1 <= value <= most:
            raise ConfigError(f"{option} must be 1 to {most}, got {value}")


def _prepare_timing(
    arguments: argparse.Namespace, argv: tuple[str, ...] = ("galaxy_mpi.compare",)
) -> Callable[[], None]:
    _check(arguments)
    for option in ("json", "csv", "plot"):
        check_writable(f"--{option}", getattr(arguments, option))
    check_page(arguments.report)
    chosen = formats(arguments.precision, arguments.optimizations, arguments.formats)
    what_if = WhatIf(
        model=arguments.model,
        users=arguments.users,
        input_tokens=arguments.position,
        mesh=arguments.mesh,
        machine=arguments.machine,
        system="galaxy",
        layers=arguments.layers,
        layout_class=chosen_layout(arguments.layout),
        **chosen,
    )
    programs, found = what_if.programs, variants(Mesh.parse(arguments.mesh))

    def play() -> None:
        device = device_figures(
            found,
            programs.model,
            what_if.emulated_machine,
            programs.mesh,
            what_if.wanted,
            users=arguments.users,
            position=arguments.position,
            layout_class=what_if.layout_class,
        )
        rows = rows_of(found, device, None, what_if.conditions)
        ran = {
            "argv": list(argv),
            "config": config_of(what_if),
            "formats": programs.precision.key,
            "machine": asdict(programs.on(what_if.emulated_machine)),
            "versions": versions(),
        }
        _report(arguments, programs.model, found, rows, ran)

    return play


def _prepare_values(
    arguments: argparse.Namespace, argv: tuple[str, ...] = ("galaxy_mpi.compare",)
) -> tuple[Mesh, Callable[[Transport], None]]:
    _check(arguments)
    mesh = Mesh.parse(arguments.mesh)
    found = variants(mesh)
    check_page(arguments.report)
    run = RunConfig(
        model=arguments.model,
        mesh=mesh,
        batch=arguments.users,
        n_layers=arguments.layers,
        layout_class=chosen_layout(arguments.layout),
        machine=arguments.machine,
        prefix_caching=False,
        argv=argv,
        json_path=arguments.json,
        **formats(arguments.precision, arguments.optimizations, arguments.formats),
    )

    def play(transport: Transport) -> None:
        from galaxy_mpi.engine import Engine  # here, not above: device time needs none

        generic = replace(run, system="tt_transformers")
        with Engine(generic, transport) as engine:
            host = host_figures(engine, found[:1], arguments.turns)
        with Engine(run, transport) as engine:
            host += host_figures(engine, found[1:], arguments.turns)
        if transport.rank != 0:
            return
        plan, device = engine.plan, None
        emulated = run.emulated_machine if plan.has_device_time else None
        chips, about = engine.chips, (plan.sampling, plan.checksums)
        ran = what_ran(run, engine.programs, chips.planes, emulated, *about, chips.product)
        if plan.has_device_time:
            device = device_figures(
                found,
                plan.model,
                Machine.load(arguments.machine),
                mesh,
                run.wanted,
                users=arguments.users,
                position=arguments.position,
                layout_class=run.layout_class,
            )
        machine, is_changed = Machine.load(arguments.machine).published_as(arguments.machine)
        conditions = Conditions(
            system="galaxy",
            machine=machine,
            mesh=str(mesh),
            dim=plan.model.dim,
            hidden_dim=plan.model.hidden_dim,
            n_layers=plan.model.n_layers,
            n_tokens=arguments.position,
            is_changed=is_changed or bool(engine.programs.layout.key),
        )
        _report(arguments, plan.model, found, rows_of(found, device, host, conditions), ran)

    return mesh, play


def _report(
    arguments: argparse.Namespace,
    model: LlamaConfig,
    found: list[Variant],
    rows: list[Row],
    ran: JsonObject,
) -> None:
    records = to_dict(rows)
    content = {
        "schema_version": 1,
        "run": ran,
        "model": arguments.model,
        "mesh": arguments.mesh,
        "users": arguments.users,
        "position": arguments.position,
        "rows": records,
    }
    print(table(rows, model, found), flush=True)
    files: list[tuple[Path | None, str | bytes]] = [
        (arguments.json, json.dumps(content, indent=2) + "\n")
    ]
    if arguments.csv is not None:
        text = io.StringIO()
        writer = csv.DictWriter(text, list(records[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)
        files.append((arguments.csv, text.getvalue()))
    if arguments.plot is not None:
        cumulative = [row for row in rows if not row.is_alone]
        series = {
            "device ms": [row.device.seconds * 1e3 if row.device else 0.0 for row in cumulative]
        }
        if rows[0].host is not None:
            series["host ms"] = [(row.host_step_s or 0.0) * 1e3 for row in cumulative]
        names = [cumulative[0].name, *(f"+ {row.name}" for row in cumulative[1:])]
        title = f"{arguments.model}, {arguments.mesh}: a decode step"
        files.append(
            (arguments.plot, grouped_bars_png(title, names, series, arguments.plot.suffix))
        )
    if arguments.report is not None:
        from galaxy_mpi.report import to_html  # here: only pages need it
        from galaxy_mpi.report.gather.compare import compare_page

        title, lines = f"{arguments.model} on {arguments.mesh} chips", list(stored(model, found))
        files.append((arguments.report, to_html(compare_page(rows, ran, title, lines))))
    write_all(files)


if __name__ == "__main__":
    sys.exit(main())
