"""What differs between two captures: ``python -m galaxy_mpi.diff A B``."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from galaxy_mpi.command import ArgumentParser, run_alone
from galaxy_mpi.output import write_text
from galaxy_mpi.studies.differences import compare_captures

__all__ = ["build_parser", "main"]

DIFFERENT = 1
"""Exit code."""


def build_parser() -> ArgumentParser:
    """Return the parser of the command."""
    parser = ArgumentParser(
        "galaxy_mpi.diff",
        "Say where two captures (decode --capture) differ: first, by op, by layer, on which chip. "
        "Exit code 0: equal, 1: different, 2: they cannot be compared.",
    )
    parser.usage = "%(prog)s A B [options]"
    add = parser.add_argument
    add("a", type=Path, nargs="?", help="folder, or a file of one")
    add("b", type=Path, nargs="?", help="what it is compared with")
    add("--pcc", type=float, default=0.99, metavar="P", help="also name the first op below it")
    add("--json", type=Path, metavar="FILE", help="write the figures; - is standard output")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Compare and print."""
    parser = build_parser()

    def prepare(arguments: argparse.Namespace) -> Callable[[], int]:
        if arguments.b is None:
            parser.error("give two captures")
        found = compare_captures(arguments.a, arguments.b)

        def play() -> int:
            text = json.dumps(found.to_dict(arguments.pcc), indent=2) + "\n"
            if str(arguments.json) == "-":
                print(text, end="")
            else:
                write_text(arguments.json, text)
                print(found.to_text(arguments.pcc))
            return DIFFERENT if found.differing or found.only_in_one else 0

        return play

    return run_alone(parser, argv, prepare)


if __name__ == "__main__":
    sys.exit(main())
