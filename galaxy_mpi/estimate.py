"""Device time without weights, values or ranks: ``galaxy-mpi estimate``."""

import argparse
import csv
import io
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from galaxy_mpi.blas import one_thread_per_rank

if __name__ == "__main__":
    one_thread_per_rank()

from galaxy_mpi.command import ArgumentParser, run_alone
from galaxy_mpi.engine.ran import config_of, versions
from galaxy_mpi.errors import ConfigError
from galaxy_mpi.output import check_page, check_writable, write_all
from galaxy_mpi.plot import bars_png, lines_png
from galaxy_mpi.studies.what_helps import helps, helps_table
from galaxy_mpi.studies.what_if import WhatIf
from galaxy_mpi.system_arguments import add_model, add_slowness, add_system, of_system

__all__ = ["build_parser", "main"]


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
    add("--sweep", metavar="KEY=A,B,C", help="one row per value of an option: links=1,2,3,4")
    add = parser.add_argument_group("output").add_argument
    add("--csv", type=Path, metavar="FILE", help="write the rows of a sweep")
    add("--trace", type=Path, metavar="FILE", help="write a prompt and a step for ui.perfetto.dev")
    add("--profile-csv", type=Path, metavar="FILE", help="write the same for tt-perf-report")
    add("--plot", type=Path, metavar="FILE.png", help="draw the time by op, or a sweep")
    add("--json", type=Path, metavar="FILE", help="write the figures; - means standard output")
    add("--report", type=Path, metavar="FILE.html", help="write a page to look at")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Estimate, print a table, write JSON."""
    parser, words = build_parser(), list(sys.argv[1:] if argv is None else argv)

    def prepare(arguments: argparse.Namespace) -> Callable[[], None]:
        if arguments.csv is not None and arguments.sweep is None:
            raise ConfigError("--csv writes the rows of a --sweep; add one")
        for option in _FILES:
            path = getattr(arguments, option.replace("-", "_"))
            if not (option == "json" and str(path) == "-"):
                check_writable(f"--{option}", path)
        check_page(arguments.report)
        if arguments.sweep is not None:
            return _prepare_sweep(parser, words, arguments)
        what_if = _what_if(arguments)

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
                files.append((arguments.plot, bars_png(title, by_op_us, "us")))
            if arguments.report is not None:
                from galaxy_mpi.report import to_html  # here: only pages need it
                from galaxy_mpi.report.gather.estimate import estimate_page

                files.append((arguments.report, to_html(estimate_page(what_if, report, rows))))
            write_all(files)

        return play

    return run_alone(parser, words, prepare)


def _what_if(arguments: argparse.Namespace) -> WhatIf:
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
_MOST_SWEPT = 1000
_NOT_SWEPT = (*_FILES, "sweep", "help", "no-prefetch", "allow-over-budget", "what-helps")

SWEEP_COLUMNS = (
    "decode_step_s",
    "tokens_per_s_per_user",
    "tokens_per_s",
    "time_to_first_token_s",
    "prefetch_stall_s",
    "decode_step_s_margin",
    "time_to_first_token_s_margin",
)


def _prepare_sweep(
    parser: ArgumentParser, words: list[str], arguments: argparse.Namespace
) -> Callable[[], None]:
    key, _, values = arguments.sweep.partition("=")
    key = key.lstrip("-")
    words_of_values = values.split(",")
    if len(words_of_values) > _MOST_SWEPT:
        raise ConfigError(f"--sweep takes at most {_MOST_SWEPT} values, got {len(words_of_values)}")
    if not values or key in _NOT_SWEPT:
        raise ConfigError(
            f"--sweep takes an option and its values, for example links=1,2,3,4; "
            f"got {arguments.sweep!r}"
        )
    # Appended to the command line, where the last one counts.
    estimates: dict[str, WhatIf | None] = {}
    reasons: dict[str, str] = {}
    for value in words_of_values:
        parsed = parser.parse_args([*words, f"--{key}", value])
        try:
            estimates[value] = _what_if(parsed)
        except ConfigError as error:  # of this point only
            estimates[value], reasons[value] = None, str(error)
    if len(reasons) == len(estimates):
        raise ConfigError(next(iter(reasons.values())))

    def play() -> None:
        rows: list[dict[str, Any]] = []
        for value, estimate in estimates.items():
            device = dict.fromkeys(SWEEP_COLUMNS) if estimate is None else estimate.report["device"]
            figures = {name: device[name] for name in SWEEP_COLUMNS}
            rows.append({key: value} | figures | {"not_estimated": reasons.get(value, "")})
        text = io.StringIO()
        writer = csv.DictWriter(text, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        width = max(len(key), *(len(value) for value in estimates)) + 2
        print(f"{key:<{width}}{'step ms':>9}{'+-':>5}{'tokens/s/user':>15}{'tokens/s':>10}"
              f"{'first token ms':>16}{'+-':>5}{'stall us':>10}")  # fmt: skip
        for row in rows:
            if row["not_estimated"]:
                print(f"{row[key]:<{width}}  {row['not_estimated']}")
                continue
            print(
                f"{row[key]:<{width}}{row['decode_step_s'] * 1e3:>9.3f}"
                f"{row['decode_step_s_margin']:>5.0%}{row['tokens_per_s_per_user']:>15.2f}"
                f"{row['tokens_per_s']:>10.1f}{row['time_to_first_token_s'] * 1e3:>16.1f}"
                f"{row['time_to_first_token_s_margin']:>5.0%}"
                f"{row['prefetch_stall_s'] * 1e6:>10.1f}"
            )
        files: list[tuple[Path | None, str | bytes]] = [(arguments.csv, text.getvalue())]
        if str(arguments.json) != "-":
            files.append((arguments.json, json.dumps(rows, indent=2) + "\n"))
        if arguments.plot is not None:
            drawn = [row for row in rows if not row["not_estimated"]]
            lines = {name: [row[name] for row in drawn] for name in SWEEP_COLUMNS[:5]}
            points = [row[key] for row in drawn]
            files.append((arguments.plot, lines_png(arguments.model, key, points, lines)))
        if arguments.report is not None:
            from galaxy_mpi.report import to_html
            from galaxy_mpi.report.gather.estimate import sweep_page

            said = {"argv": ["galaxy_mpi.estimate", *words], "versions": versions()}
            files.append((arguments.report, to_html(sweep_page(key, rows, said))))
        write_all(files)

    return play


if __name__ == "__main__":
    sys.exit(main())
