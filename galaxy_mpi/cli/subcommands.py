"""The subcommands of ``galaxy-mpi``. To add one, add a line to the table."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["SUBCOMMANDS", "Subcommand", "last_value"]

HELP_WORDS = ("-h", "--help")


@dataclass(frozen=True)
class Subcommand:
    """A module that runs as a command."""

    name: str
    module: str
    """It has ``build_parser()`` and ``main(argv)``."""
    summary: str
    mesh: str | None = None
    """Default mesh of a command that runs on ranks; None for a command of one process."""
    alone_option: str | None = None
    """Option with which the command needs no ranks."""
    ranks_option: str | None = None
    """Option without which the command needs no ranks."""

    def ranks(self, words: Sequence[str]) -> int:
        """Return how many ranks ``mpirun`` must start; 1 if this process is enough.

        Invalid options need no ranks either: the command itself reports the error.

        Examples
        --------
        >>> decode = Subcommand("decode", "galaxy_mpi.decode", "", mesh="8x4")
        >>> decode.ranks([]), decode.ranks(["--mesh=2x2"]), decode.ranks(["--mesh", "2x2", "-h"])
        (32, 4, 1)
        """
        if self.mesh is None or self.alone_option in words:
            return 1
        if self.ranks_option is not None and self.ranks_option not in words:
            return 1
        if any(word in HELP_WORDS for word in words):
            return 1
        sides = re.fullmatch(
            r"(\d{1,4})x(\d{1,4})", last_value(words, "--mesh", self.mesh).strip().lower()
        )
        each = last_value(words, "--chips-per-rank", "1")
        if sides is None or re.fullmatch(r"[1-9]\d{0,7}", each) is None:
            return 1
        ranks, rest = divmod(int(sides[1]) * int(sides[2]), int(each))
        return ranks if ranks and not rest else 1


def last_value(words: Sequence[str], option: str, default: str) -> str:
    """Return the value of an option as argparse sees it: the last one counts."""
    value = default
    for place, word in enumerate(words):
        if word == option and place + 1 < len(words):
            value = words[place + 1]
        elif word.startswith(f"{option}="):
            value = word.partition("=")[2]
    return value


SUBCOMMANDS = (
    Subcommand("decode", "galaxy_mpi.decode", "generate text on the emulated mesh", "8x4"),
    Subcommand("estimate", "galaxy_mpi.estimate", "device time of a run, without computing it"),
    Subcommand(
        "compare",
        "galaxy_mpi.compare",
        "gain of each optimization from the generic system to the Galaxy",
        "8x4",
        "--timing-only",
    ),
    Subcommand(
        "traffic",
        "galaxy_mpi.traffic",
        "serve a day of requests on the device clock",
        "8x4",
        ranks_option="--with-values",
    ),
    Subcommand("diff", "galaxy_mpi.diff", "differences between two captures of decode --capture"),
    Subcommand("validate", "galaxy_mpi.validate", "modelled device times next to published ones"),
    Subcommand("calibrate", "galaxy_mpi.calibrate", "fit the constants of the device model"),
    Subcommand("accuracy", "galaxy_mpi.accuracy", "what a precision costs in accuracy", "8x4"),
    Subcommand("pareto", "galaxy_mpi.pareto", "formats on the front of accuracy and time", "8x4"),
    Subcommand(
        "program",
        "galaxy_mpi.program.__main__",
        "a step as a listing of ops, messages and device time",
    ),
    Subcommand("bench", "galaxy_mpi.bench", "how fast this computer runs the emulator", "8x4"),
    Subcommand("doctor", "galaxy_mpi.doctor", "check this computer and its MPI"),
    Subcommand("flight", "galaxy_mpi.flight", "where the ranks of a failed run diverged"),
    Subcommand("faults", "galaxy_mpi.faults.__main__", "break real runs and check how they end"),
    Subcommand("cache", "galaxy_mpi.cache", "list or remove cached packed weights"),
    Subcommand("completion", "galaxy_mpi.cli.completion", "shell completion for bash, zsh or fish"),
)
