"""Differences between two captures: ``galaxy-mpi diff A B``."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from galaxy_mpi.arguments import ArgumentParser
from galaxy_mpi.command import run_alone
from galaxy_mpi.errors import ConfigError
from galaxy_mpi.files import write_text
from galaxy_mpi.studies.differences import compare_captures

__all__ = ["build_parser", "main"]

DIFFERENT = 1
"""Exit code."""

USUAL_PCC = 0.99


def build_parser() -> ArgumentParser:
    """Return the parser of the command."""
    parser = ArgumentParser(
        "galaxy_mpi.diff",
        "Show where two captures of decode --capture differ: the first tensor, then by op, by "
        "layer, and on which chip. Exit code 0: equal (or near enough, see --require-pcc), "
        "1: different, 2: not comparable.",
    )
    parser.usage = "%(prog)s A B [options]"
    add = parser.add_argument
    add("a", type=Path, nargs="?", help="folder of a capture, or one of its files")
    add("b", type=Path, nargs="?", help="the capture to compare with")
    add(
        "--pcc",
        type=float,
        metavar="P",
        help="also show the first op whose correlation is below P (default: that of --require-pcc, "
        "or 0.99)",
    )
    add(
        "--require-pcc",
        type=float,
        metavar="P",
        help="exit with 0 if no tensor has a correlation below P, even if values differ; but not "
        "if one is missing, has another shape, or is finite in one capture only",
    )
    add("--json", type=Path, metavar="FILE", help="write the figures; - means standard output")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Compare and print."""
    parser = build_parser()

    def prepare(arguments: argparse.Namespace) -> Callable[[], int]:
        if arguments.b is None:
            parser.error("give two captures")
        for option, bound in (("--pcc", arguments.pcc), ("--require-pcc", arguments.require_pcc)):
            if bound is not None and not 0 <= bound <= 1:
                raise ConfigError(f"{option} must be 0 to 1, got {bound}")
        found = compare_captures(arguments.a, arguments.b)
        shown = (arguments.pcc, arguments.require_pcc, USUAL_PCC)
        pcc = next(bound for bound in shown if bound is not None)

        def play() -> int:
            text = json.dumps(found.to_dict(pcc), indent=2) + "\n"
            if str(arguments.json) == "-":
                print(text, end="")
            else:
                write_text(arguments.json, text)
                print(found.to_text(pcc))
            if arguments.require_pcc is None:
                return DIFFERENT if found.differing or found.only_in_one else 0
            why_not = found.why_not(arguments.require_pcc)
            if why_not:
                print(f"galaxy_mpi: fails --require-pcc: {why_not}", file=sys.stderr)
            return DIFFERENT if why_not else 0

        return play

    return run_alone(parser, argv, prepare)


if __name__ == "__main__":
    sys.exit(main())
