"""Fault injection: ``python -m galaxy_mpi.faults [--quick]``."""

import argparse
import os
import re
import socket
import sys
import textwrap
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from galaxy_mpi.arguments import ArgumentParser
from galaxy_mpi.command import run_alone
from galaxy_mpi.errors import ConfigError
from galaxy_mpi.faults.run import Outcome, golden_tokens, play
from galaxy_mpi.faults.table import cases
from galaxy_mpi.files import write_text

__all__ = ["build_parser", "main"]


def build_parser() -> ArgumentParser:
    """Return the parser of the command."""
    parser = ArgumentParser(
        "galaxy_mpi.faults",
        "Start real runs, break something in each, and check how they end. Exit code 1 if one ends "
        "differently than expected.",
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="only the fast cases")
    add(
        "--only",
        default="",
        metavar="PATTERN",
        help="only cases whose name matches this regular expression",
    )
    add("--list", action="store_true", help="print the names and run nothing")
    add("--jobs", type=int, default=2, metavar="N", help="runs at once")
    add("--patience", type=float, default=1.0, metavar="N", help="multiply time limits by N")
    add("--verbose", action="store_true", help="print the output of failing runs")
    add("--markdown", type=Path, metavar="FILE", help="write the table as Markdown")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the cases; return 1 if one ended differently than expected."""
    failed: list[Outcome] = []

    def prepare(arguments: argparse.Namespace) -> Callable[[], None]:
        if not 1 <= arguments.jobs <= 64:
            raise ConfigError(f"--jobs must be 1 to 64, got {arguments.jobs}")
        if not 0 < arguments.patience < 1e3:
            raise ConfigError(f"--patience must be above 0, got {arguments.patience}")
        try:
            pattern = re.compile(arguments.only)
        except re.error as error:
            raise ConfigError(f"--only is not a regular expression: {error}") from None
        chosen = [
            case
            for case in cases()
            if (case.is_quick or not arguments.quick)
            and pattern.search(case.name)
            and (os.getuid() == 0 or not case.needs_root)
        ]
        if not chosen:
            raise ConfigError(f"no case is called {arguments.only!r}; see --list")

        def run() -> None:
            if arguments.list:
                print("\n".join(case.name for case in chosen))
                return
            layouts = {case.layout.name: case.layout for case in chosen}
            golden = {name: golden_tokens(layout) for name, layout in layouts.items()}
            done = []
            with ThreadPoolExecutor(arguments.jobs) as pool:
                plays = [
                    pool.submit(play, case, golden[case.layout.name], arguments.patience)
                    for case in chosen
                ]
                for future in plays:
                    outcome = future.result()
                    done.append(outcome)
                    print(_line(outcome), flush=True)
                    if outcome.problems:
                        failed.append(outcome)
                        if arguments.verbose:
                            print(outcome.errors, flush=True)
            print(f"{len(done) - len(failed)} of {len(done)} faults end as expected")
            if arguments.markdown is not None:
                write_text(arguments.markdown, _markdown(done))

        return run

    return run_alone(build_parser(), argv, prepare) or int(bool(failed))


def _line(outcome: Outcome) -> str:
    verdict = "; ".join(outcome.problems) or "ok"
    name = outcome.case.name
    return (
        f"{name:<44}{outcome.gone_s:>6.1f} s {outcome.code:>4}  {verdict}  [{outcome.last[:110]}]"
    )


def _markdown(done: Sequence[Outcome]) -> str:
    lines = [
        "| layout | fault | moment | rank | time (s) | exit code | as expected | message |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for outcome in done:
        case = outcome.case
        last = _anywhere(outcome.last)
        cells = (
            case.layout.name,
            f"`{case.fault}`".replace("|", "\\|"),
            case.moment,
            case.victim,
            f"{outcome.gone_s:.1f}",
            str(outcome.code),
            _anywhere("; ".join(outcome.problems)) or "yes",
            textwrap.shorten(last, 160, placeholder=" ..."),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _anywhere(text: str) -> str:
    """Return a text without what is of this machine and this run alone."""
    text = re.sub(rf"\b{re.escape(socket.gethostname())}\b", "HOST", text)
    text = text.replace(sys.prefix, "...").replace("|", "/")
    return re.sub(r"gf-\w+|prterun-\S+|(?<=process )\d+", "...", text)


if __name__ == "__main__":
    sys.exit(main())
