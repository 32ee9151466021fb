"""Check whether this computer can run the emulator: ``python -m galaxy_mpi.doctor``."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from galaxy_mpi.arguments import ArgumentParser
from galaxy_mpi.checkpoints import cache_folder
from galaxy_mpi.command import run_alone
from galaxy_mpi.errors import ConfigError
from galaxy_mpi.health import (
    Finding,
    Level,
    host_findings,
    launch_findings,
    network_findings,
    software_findings,
)

__all__ = ["build_parser", "main"]


def build_parser() -> ArgumentParser:
    """Return the parser of the command."""
    parser = ArgumentParser(
        "galaxy_mpi.doctor",
        "Check MPI, memory, limits and folders: one line each, with a remedy. Exit code 1 if runs "
        "cannot work.",
    )
    parser.add_argument(
        "--ranks", type=int, default=32, metavar="N", help="ranks of the runs you plan"
    )
    parser.add_argument(
        "--start", type=int, default=2, metavar="N", help="start N ranks as a test; 0: none"
    )
    parser.add_argument(
        "--hostfile", type=Path, metavar="FILE", help="check the hosts that this file names, too"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Print the findings; return 1 if one of them prevents runs, else 0."""
    found: list[Finding] = []

    def prepare(arguments: argparse.Namespace) -> Callable[[], None]:
        if not 1 <= arguments.ranks <= 4096:
            raise ConfigError(f"--ranks must be 1 to 4096, got {arguments.ranks}")
        if not 0 <= arguments.start <= 4096:
            raise ConfigError(f"--start must be 0 to 4096, got {arguments.start}")

        def play() -> None:
            if arguments.start:
                found.extend(launch_findings(n_ranks=arguments.start))
            found.extend(host_findings(arguments.ranks))
            if arguments.hostfile is not None:
                found.extend(network_findings(arguments.hostfile, arguments.ranks))
            found.extend(software_findings(dict(os.environ), cache_folder()))
            if arguments.json:
                findings = [finding.to_json() for finding in found]
                print(json.dumps({"schema_version": 1, "findings": findings}, indent=1))
            else:
                print("\n".join(finding.to_text() for finding in found))

        return play

    code = run_alone(build_parser(), argv, prepare)
    return code or int(any(finding.level is Level.BAD for finding in found))


if __name__ == "__main__":
    sys.exit(main())
