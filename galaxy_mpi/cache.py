"""Packed weights kept for later runs: ``galaxy-mpi cache``."""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from galaxy_mpi.arguments import ArgumentParser
from galaxy_mpi.checkpoints import cache_folder
from galaxy_mpi.command import run_alone
from galaxy_mpi.errors import ConfigError
from galaxy_mpi.models.shard_folder import KEPT_BYTES, KEPT_DAYS, Entry, entries, prune, remove

__all__ = ["build_parser", "main"]

_ACTIONS = ("list", "prune", "clear")


def build_parser() -> ArgumentParser:
    """Return the parser of the command."""
    parser = ArgumentParser(
        "galaxy_mpi.cache", "List or remove the packed weights that runs keep for later runs."
    )
    parser.usage = "%(prog)s [list|prune|clear] [options]"
    add = parser.add_argument
    add(
        "action",
        nargs="?",
        default="list",
        help="list; prune: remove old entries, then the oldest beyond a size; clear: remove all",
    )
    add(
        "--weights-cache",
        type=Path,
        default=cache_folder() / "shards",
        metavar="DIR",
        help="as in galaxy-mpi decode",
    )
    add(
        "--days",
        type=float,
        default=KEPT_DAYS,
        metavar="N",
        help="prune: remove entries unused for N days",
    )
    add(
        "--gib",
        type=float,
        default=KEPT_BYTES / 2**30,
        metavar="N",
        help="prune: keep at most N GiB",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the action and print the entries."""

    def prepare(arguments: argparse.Namespace) -> Callable[[], None]:
        if arguments.action not in _ACTIONS:
            raise ConfigError(f"no action {arguments.action!r}; choose {', '.join(_ACTIONS)}")
        for option, value in (("--days", arguments.days), ("--gib", arguments.gib)):
            if not 0 <= value < 1e9:
                raise ConfigError(f"{option} must be 0 or more, got {value}")

        def play() -> None:
            root: Path = arguments.weights_cache
            if arguments.action == "list":
                _print(root, entries(root), "in")
            elif arguments.action == "prune":
                removed = prune(root, days=arguments.days, n_bytes=arguments.gib * 2**30)
                _print(root, removed, "removed from")
            else:
                found = entries(root)
                for entry in found:
                    remove(entry)
                prune(root)  # drafts
                _print(root, found, "removed from")

        return play

    return run_alone(build_parser(), argv, prepare)


def _print(root: Path, found: list[Entry], what: str) -> None:
    if found:
        print(f"{'model':<10}{'mesh, precision, layers':<36}{'files':>6}{'MiB':>10}  last used")
    for entry in found:
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.used_s))
        model, kind = entry.folder.parent.name[:8], entry.folder.name
        mib = entry.n_bytes / 2**20
        # The figures of a long name are below it.
        space = " " * (36 - len(kind)) if len(kind) < 36 else "\n" + " " * 46
        print(f"{model:<10}{kind}{space}{entry.n_files:>6}{mib:>10.1f}  {used}")
    total = sum(entry.n_bytes for entry in found) / 2**20
    print(
        f"{len(found)} {'entry' if len(found) == 1 else 'entries'}, {total:.1f} MiB, {what} {root}"
    )


if __name__ == "__main__":
    sys.exit(main())
