"""The subcommands of ``galaxy-mpi``. A new one is a line of the table."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["SUBCOMMANDS", "Subcommand", "last_value"]

HELP_WORDS = ("-h", "--help")


@dataclass(frozen=True)
class Subcommand:
    """One module that is run as a command."""

    name: str
    module: str
    """With ``build_parser()`` and ``main(argv)``."""
    summary: str
    mesh: str | None = None
    """The mesh without ``--mesh``, of a command that runs on ranks; None: one process does it."""
    alone_option: str | None = None
    """With which a command on ranks needs none."""
    ranks_option: str | None = None
    """Without which it needs none either."""

    def ranks(self, words: Sequence[str]) -> int:
        """Return how many ranks ``mpirun`` is to start; 1: none, this process does it all.

        What cannot be understood needs no ranks either: the command says what is wrong with it.

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
    Subcommand("decode", "galaxy_mpi.decode", "continue prompts on the emulated mesh", "8x4"),
    Subcommand("estimate", "galaxy_mpi.estimate", "device time of a run, without computing it"),
    Subcommand(
        "compare",
        "galaxy_mpi.compare",
        "from the generic system to the Galaxy, one idea at a time",
        "8x4",
        "--timing-only",
    ),
    Subcommand(
        "traffic",
        "galaxy_mpi.traffic",
        "a day of requests on the device clock",
        "8x4",
        ranks_option="--with-values",
    ),
    Subcommand("diff", "galaxy_mpi.diff", "where two captures of decode --capture differ"),
    Subcommand("validate", "galaxy_mpi.validate", "modelled device times beside published ones"),
    Subcommand("calibrate", "galaxy_mpi.calibrate", "constants of the device model, fitted again"),
    Subcommand("accuracy", "galaxy_mpi.accuracy", "what a precision costs in accuracy", "8x4"),
    Subcommand("program", "galaxy_mpi.program.__main__", "what a step does, phase by phase"),
    Subcommand("cache", "galaxy_mpi.cache", "list or remove packed weights that runs have kept"),
    Subcommand("completion", "galaxy_mpi.cli.completion", "completion for bash, zsh or fish"),
)
