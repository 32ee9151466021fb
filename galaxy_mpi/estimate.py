"""Device time without weights, values or ranks: ``galaxy-mpi estimate``."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from galaxy_mpi.blas import one_thread_per_rank

if __name__ == "__main__":
    one_thread_per_rank()

from galaxy_mpi.arguments import ArgumentParser
from galaxy_mpi.command import run_alone
from galaxy_mpi.engine.ran import config_of, versions
from galaxy_mpi.errors import ConfigError
from galaxy_mpi.files import check_page, check_writable, write_all
from galaxy_mpi.plot import bars_png
from galaxy_mpi.studies.sweep import Sweep
from galaxy_mpi.studies.what_helps import helps, helps_table
from galaxy_mpi.studies.what_if import WhatIf
from galaxy_mpi.system_arguments import add_model, add_slowness, add_system, of_system

__all__ = ["build_parser", "main", "prepare_sweep", "what_if_of"]


def build_parser() -> ArgumentParser:
    """Return the parser of the command."""
    parser = ArgumentParser(
        "galaxy_mpi.estimate",
        "Estimate how long a run takes on the emulated chips, without computing it.",
    )
    add = parser.add_argument_group("model and prompts").add_argument
    add_model(add)
    add("--users", type=int, default=32, metavar="N", help="users of a decode step")
    add("--input-tokens", type=int, default=128, metavar="N", help="tokens of each prompt")
    add("--new-tokens", type=int, default=128, metavar="N", help="decode steps after the prompt")
    add(
        "--prefill",
        default="one",
        metavar="WHAT",
        help="one: time to first token of a single prompt; all: of the prompts of all users",
    )
    add("--layers", type=int, metavar="N", help="use only the first N layers")
    add = add_system(parser)
    add(
        "--cached-percent",
        type=int,
        default=0,
        metavar="N",
        help="share of the prompt that is in the prefix cache",
    )
    add(
        "--lengths",
        metavar="N,NxM,...",
        help="prompt lengths of the users; NxM is M users with N tokens",
    )
    add = add_slowness(parser)
    add(
        "--what-helps",
        action="store_true",
        help="show the gain from halving each cost of the machine",
    )
    add(
        "--sweep",
        action="append",
        default=[],
        metavar="KEY=A,B,C",
        help="one row per value of an option: links=1,2,3,4; twice for a grid",
    )
    add = parser.add_argument_group("output").add_argument
    add("--csv", type=Path, metavar="FILE", help="write the rows of a sweep; - as --json")
    add("--trace", type=Path, metavar="FILE", help="write a prompt and a step for ui.perfetto.dev")
    add("--profile-csv", type=Path, metavar="FILE", help="write the same for tt-perf-report")
    add("--plot", type=Path, metavar="FILE.png|svg", help="draw the time by op, or a sweep")
    add("--json", type=Path, metavar="FILE", help="write the figures; - means standard output")
    add("--report", type=Path, metavar="FILE.html", help="write a page to look at")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Estimate, print a table, write JSON."""
    parser, words = build_parser(), list(sys.argv[1:] if argv is None else argv)

    def prepare(arguments: argparse.Namespace) -> Callable[[], None]:
        if arguments.csv is not None and not arguments.sweep:
            raise ConfigError("--csv writes the rows of a --sweep; add one")
        for option in _FILES:
            path = getattr(arguments, option.replace("-", "_"))
            if not (option in _ON_STDOUT and str(path) == "-"):
                check_writable(f"--{option}", path)
        check_page(arguments.report)
        if [str(arguments.json), str(arguments.csv)] == ["-", "-"]:
            raise ConfigError("--json - and --csv - are both standard output; name a file for one")
        if arguments.sweep:
            return prepare_sweep(parser, words, arguments)
        what_if = what_if_of(arguments)

        def play() -> None:
            machine = what_if.programs.on(what_if.emulated_machine)
            said = {
                "argv": ["galaxy_mpi.estimate", *words],
                "config": config_of(what_if),
                "machine": asdict(machine),
                "versions": versions(),
            }
            report = what_if.report | {"run": said}
            rows = helps(what_if) if arguments.what_helps else []
            if rows:
                report |= {"what_helps": [vars(row) for row in rows]}
            text = json.dumps(report, indent=2) + "\n"
            # Standard output first: a full disk must not lose it.
            is_shown = str(arguments.json) == "-"
            table = what_if.table() + "\n"
            if rows:
                table += "\n" + helps_table(rows, report["device"]) + "\n"
            print(text if is_shown else table, end="", flush=True)
            files: list[tuple[Path | None, str | bytes]] = []
            if not is_shown:
                files.append((arguments.json, text))
            if arguments.trace is not None:
                files.append((arguments.trace, what_if.trace.for_file(arguments.trace)))
            if arguments.profile_csv is not None:
                files.append((arguments.profile_csv, what_if.op_report_csv()))
            if arguments.plot is not None:
                by_op_us = {name: s * 1e6 for name, s in report["device"]["by_op_s"].items()}
                title = f"{arguments.model}: a decode step by op, chip (0, 0)"
                files.append(
                    (arguments.plot, bars_png(title, by_op_us, "us", arguments.plot.suffix))
                )
            if arguments.report is not None:
                from galaxy_mpi.report import to_html  # here: only pages need it
                from galaxy_mpi.report.gather.estimate import estimate_page

                files.append((arguments.report, to_html(estimate_page(what_if, report, rows))))
            write_all(files)

        return play

    return run_alone(parser, words, prepare)


def what_if_of(arguments: argparse.Namespace) -> WhatIf:
    """Return what parsed arguments ask for."""
    return WhatIf(
        users=arguments.users,
        input_tokens=arguments.input_tokens,
        new_tokens=arguments.new_tokens,
        prefill=arguments.prefill,
        cached_percent=arguments.cached_percent,
        lengths=_lengths(arguments.lengths),
        **of_system(arguments),
    )


def _lengths(text: str | None) -> tuple[int, ...] | None:
    """Parse ``128,4096x3``."""
    if text is None:
        return None
    found: list[int] = []
    for part in text.split(","):
        length, _, times = part.partition("x")
        if not length.isdecimal() or not (times or "1").isdecimal():
            raise ConfigError(
                f"--lengths is a list of N or NxM, for example 128,4096x3; got {text!r}"
            )
        found += [int(length)] * int(times or "1")
    return tuple(found)


_FILES = ("json", "csv", "trace", "profile-csv", "plot", "report")
_ON_STDOUT = ("json", "csv")
_NOT_SWEPT = (*_FILES, "sweep", "help", "no-prefetch", "allow-over-budget", "what-helps")
_OF_ONE_POINT = ("trace", "profile-csv")


def prepare_sweep(
    parser: ArgumentParser, words: list[str], arguments: argparse.Namespace
) -> Callable[[], None]:
    """Return what prints and writes a sweep; raise ConfigError for arguments that cannot be."""
    for option in _OF_ONE_POINT:
        if getattr(arguments, option.replace("-", "_")) is not None:
            raise ConfigError(f"--{option} is of one point; leave out --sweep")

    parser.check_swept(arguments.sweep, _NOT_SWEPT)

    def of_words(more: list[str]) -> Callable[[], WhatIf]:
        parsed = parser.parse_args([*words, *more])  # the last one counts
        return lambda: what_if_of(parsed)

    sweep = Sweep.parse(arguments.sweep, _NOT_SWEPT, of_words)

    def play() -> None:
        said = {"argv": ["galaxy_mpi.estimate", *words], "versions": versions()}
        texts = {"json": json.dumps(sweep.to_dict(said), indent=2) + "\n", "csv": sweep.csv()}
        on_stdout = [name for name in _ON_STDOUT if str(getattr(arguments, name)) == "-"]
        # Standard output first: a full disk must not lose it.
        print(texts[on_stdout[0]] if on_stdout else f"{sweep.table()}\n", end="", flush=True)
        files: list[tuple[Path | None, str | bytes]] = [
            (getattr(arguments, name), texts[name]) for name in _ON_STDOUT if name not in on_stdout
        ]
        if arguments.plot is not None:
            plot = sweep.plot(f"{arguments.model}: a sweep", arguments.plot.suffix)
            files.append((arguments.plot, plot))
        if arguments.report is not None:
            from galaxy_mpi.report import to_html
            from galaxy_mpi.report.gather.estimate import sweep_page

            files.append((arguments.report, to_html(sweep_page(*sweep.named_rows(), said))))
        write_all(files)

    return play


if __name__ == "__main__":
    sys.exit(main())
