"""Serving a stream of requests on the device clock: ``galaxy-mpi traffic``."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from galaxy_mpi.blas import one_thread_per_rank
from galaxy_mpi.json_values import Json

if __name__ == "__main__":
    one_thread_per_rank()

from galaxy_mpi.arguments import ArgumentParser, add_transport
from galaxy_mpi.checkpoints import cache_folder
from galaxy_mpi.checkpoints.model_files import model_sizes
from galaxy_mpi.command import run_alone, run_on_mesh
from galaxy_mpi.config import MAX_USERS
from galaxy_mpi.engine.ran import versions
from galaxy_mpi.errors import ConfigError
from galaxy_mpi.files import check_page, check_writable, write_all
from galaxy_mpi.mesh import Mesh
from galaxy_mpi.mesh.transport import Transport
from galaxy_mpi.output import print_text
from galaxy_mpi.plot import spans_png
from galaxy_mpi.serving.figures import Slo
from galaxy_mpi.serving.lengths import Lengths
from galaxy_mpi.serving.load import Load
from galaxy_mpi.serving.report import requests_csv, table, to_dict
from galaxy_mpi.serving.sweep import NOT_SWEPT, Sweep
from galaxy_mpi.serving.timeline import timeline
from galaxy_mpi.serving.traffic import Day, Traffic
from galaxy_mpi.studies.what_if import WhatIf
from galaxy_mpi.studies.what_if_checks import MAX_TOKENS
from galaxy_mpi.system_arguments import add_model, add_slowness, add_system, of_system

__all__ = ["build_parser", "main", "traffic_of"]

DEVICE_TIMES_DIFFER = 1
"""Exit code."""

_FILES = ("json", "csv", "plot")


def build_parser() -> ArgumentParser:
    """Return the parser of the command."""
    parser = ArgumentParser(
        "galaxy_mpi.traffic",
        "Simulate serving a stream of requests on the device clock, with the scheduler of a run.",
    )
    add = parser.add_argument_group("requests").add_argument
    add("--rate", type=float, metavar="R", help="open loop: R requests/s on average (Poisson)")
    add("--concurrency", type=int, metavar="N", help="closed loop: N clients, one request each")
    add(
        "--trace",
        type=Path,
        metavar="FILE",
        help="CSV or JSON lines with arrival_s, input_tokens, output_tokens; optionally prefix, "
        "prefix_tokens, cancel_s",
    )
    add(
        "--requests", type=int, default=1000, metavar="N", help="number of requests without --trace"
    )
    forms = "N, uniform:A,B or lognormal:MEDIAN,SIGMA"
    add("--input-tokens", default="128", metavar="LENGTH", help=f"prompt lengths: {forms}")
    add("--output-tokens", default="128", metavar="LENGTH", help=f"answer lengths: {forms}")
    add("--seed", type=int, default=0, help="of arrivals, lengths and prompts")
    add("--slo-ttft-ms", type=float, metavar="MS", help="goodput: limit of time to first token")
    add("--slo-tpot-ms", type=float, metavar="MS", help="goodput: limit of time per output token")
    add = parser.add_argument_group("model").add_argument
    add_model(add)
    add("--layers", type=int, metavar="N", help="use only the first N layers")
    add = add_system(parser)
    add("--batch", type=int, default=MAX_USERS, metavar="N", help="user places, at most 32")
    add("--page-size", type=int, default=64, metavar="N", help="positions per KV cache block")
    add(
        "--cache-blocks",
        type=int,
        metavar="N",
        help="KV cache blocks per column (default: 2048, or as many as a chip can hold)",
    )
    add("--no-prefix-cache", action="store_true", help="do not reuse cached prompt prefixes")
    add = add_slowness(parser)
    add("--sweep", metavar="KEY=A,B,C", help="one row per value of an option: rate=1,2,3")
    add = parser.add_argument_group("output").add_argument
    add("--json", type=Path, metavar="FILE", help="write the figures; - means standard output")
    add("--csv", type=Path, metavar="FILE", help="write one row per request, or per sweep value")
    add("--plot", type=Path, metavar="FILE.png|svg", help="draw the places over time, or a sweep")
    add("--report", type=Path, metavar="FILE.html", help="write a page to look at")
    add = parser.add_argument_group("values").add_argument
    add(
        "--with-values",
        action="store_true",
        help="compute the tokens too, on ranks; compare the run's device times with these",
    )
    add(
        "--weights-cache",
        default=str(cache_folder() / "shards"),
        metavar="DIR|off",
        help="where packed weights are cached for the next run",
    )
    add_transport(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Serve, print a table, write files."""
    words = list(sys.argv[1:] if argv is None else argv)
    parser = build_parser()
    if "--with-values" in words:
        return run_on_mesh(parser, words, lambda arguments: _prepare_values(words, arguments))
    return run_alone(parser, words, lambda arguments: _prepare(parser, words, arguments))


def _prepare(
    parser: ArgumentParser, words: list[str], arguments: argparse.Namespace
) -> Callable[[], None]:
    _check_files(arguments)
    if arguments.sweep is not None:
        return _prepare_sweep(parser, words, arguments)
    traffic = traffic_of(arguments)
    return lambda: _tell(traffic.day(), words, arguments)


def _prepare_sweep(
    parser: ArgumentParser, words: list[str], arguments: argparse.Namespace
) -> Callable[[], None]:
    parser.check_swept([arguments.sweep], NOT_SWEPT)

    def parsed(*more: str) -> Traffic:
        return traffic_of(parser.parse_args([*words, *more]))

    sweep = Sweep.parse(arguments.sweep, parsed)

    def play() -> None:
        rows = sweep.rows()
        ran = {"argv": ["galaxy_mpi.traffic", *words], "versions": versions()}
        text = json.dumps(sweep.to_dict(rows, ran), indent=2) + "\n"
        is_shown = str(arguments.json) == "-"
        print_text(text[:-1] if is_shown else sweep.table(rows))
        files: list[tuple[Path | None, str | bytes]] = [(arguments.csv, sweep.to_csv(rows))]
        if not is_shown:
            files.append((arguments.json, text))
        if arguments.plot is not None:
            plot = sweep.plot(arguments.model, rows, arguments.plot.suffix)
            files.append((arguments.plot, plot))
        if arguments.report is not None:
            from galaxy_mpi.report import to_html  # here: only pages need it
            from galaxy_mpi.report.gather.traffic_sweep import traffic_sweep_page

            page = traffic_sweep_page(sweep.key, rows, ran, arguments.model)
            files.append((arguments.report, to_html(page)))
        write_all(files)

    return play


def _prepare_values(
    words: list[str], arguments: argparse.Namespace
) -> tuple[Mesh, Callable[[Transport], int]]:
    if arguments.sweep is not None:
        raise ConfigError("--sweep and --with-values cannot be combined; leave one out")
    for option in ("links", "topology", "sampling", "circular_buffer_bytes"):
        if getattr(arguments, option) is not None:
            raise ConfigError(
                f"--{option.replace('_', '-')} cannot be combined with --with-values; leave it "
                f"out, or use --set"
            )
    _check_files(arguments)
    traffic = traffic_of(arguments)
    from galaxy_mpi.serving.values import EngineValues, run_config, told

    cache = None if arguments.weights_cache == "off" else Path(arguments.weights_cache)
    run = run_config(traffic, weights_cache=cache, argv=("galaxy_mpi.traffic", *words))

    def play(transport: Transport) -> int:
        from galaxy_mpi.engine import Engine

        with Engine(run, transport) as engine:
            service = traffic.service(values=EngineValues(engine))
            service.play()
            found = told(engine, service.scheduler.requests, service.totals)
        if found is None:
            return 0
        day = traffic.with_bands(service)  # on rank 0 alone, when no other waits for it
        _tell(day, words, arguments, values=found.to_dict())
        print_text("\n".join(["", *(found.differences or [_EQUAL])]))
        return DEVICE_TIMES_DIFFER if found.differences else 0

    return run.working_mesh, play


_EQUAL = "device times of the run agree with these to the last bit"


def traffic_of(arguments: argparse.Namespace) -> Traffic:
    """Return the traffic that parsed arguments ask for."""
    load = Load(
        rate=arguments.rate,
        concurrency=arguments.concurrency,
        trace=arguments.trace,
        n_requests=arguments.requests,
        inputs=Lengths.parse("--input-tokens", arguments.input_tokens),
        outputs=Lengths.parse("--output-tokens", arguments.output_tokens),
        seed=arguments.seed,
    )
    if not 1 <= arguments.batch <= MAX_USERS:
        raise ConfigError(f"--batch must be 1 to {MAX_USERS}, got {arguments.batch}")
    of_slo = (arguments.slo_ttft_ms, arguments.slo_tpot_ms)
    context = min(model_sizes(arguments.model).max_seq_len, MAX_TOKENS)
    return Traffic(
        what_if=WhatIf(
            users=arguments.batch,
            input_tokens=min(load.longest, context),
            new_tokens=1,
            **(of_system(arguments) | {"allow_over_budget": True}),
        ),
        load=load,
        page_size=arguments.page_size,
        cache_blocks=arguments.cache_blocks,
        prefix_caching=not arguments.no_prefix_cache,
        slo=Slo(*(None if ms is None else ms / 1e3 for ms in of_slo)),
        allow_over_budget=arguments.allow_over_budget,
    )


def _check_files(arguments: argparse.Namespace) -> None:
    for option in _FILES:
        path = getattr(arguments, option)
        if not (option == "json" and str(path) == "-"):
            check_writable(f"--{option}", path)
    check_page(arguments.report)


def _tell(day: Day, words: list[str], arguments: argparse.Namespace, **more: Json) -> None:
    report = to_dict(day, ["galaxy_mpi.traffic", *words]) | more
    text = json.dumps(report, indent=2) + "\n"
    # Standard output first: a full disk must not lose it.
    is_shown = str(arguments.json) == "-"
    print_text(text[:-1] if is_shown else table(day))
    files: list[tuple[Path | None, str | bytes]] = []
    if not is_shown:
        files.append((arguments.json, text))
    if arguments.csv is not None:
        files.append((arguments.csv, requests_csv(day)))
    if arguments.plot is not None:
        files.append((arguments.plot, spans_png(*timeline(day), arguments.plot.suffix)))
    if arguments.report is not None:
        from galaxy_mpi.report import to_html  # here: only pages need it
        from galaxy_mpi.report.gather.traffic import traffic_page

        files.append((arguments.report, to_html(traffic_page(report, day.service.served))))
    write_all(files)


if __name__ == "__main__":
    sys.exit(main())
