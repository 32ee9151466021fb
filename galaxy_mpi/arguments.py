"""The parser of all commands, and the options of those that run on ranks."""

import argparse
import contextlib
import math
import os
import sys
from collections.abc import Iterable, Sequence
from typing import NoReturn

from galaxy_mpi.errors import ConfigError, did_you_mean

__all__ = ["WAIT_TIMEOUT_S", "ArgumentParser", "add_transport", "check_timeout"]

WAIT_TIMEOUT_S = 20.0
"""Default limit of a wait for another chip; large models raise it."""


def _columns() -> int:
    """Return the width of the terminal."""
    said = os.environ.get("COLUMNS", "")
    if said.isdigit() and len(said) < 5 and int(said) > 0:
        return int(said)
    with contextlib.suppress(AttributeError, ValueError, OSError):
        return os.get_terminal_size(sys.__stdout__.fileno()).columns or 80  # type: ignore[union-attr]
    return 80


class _HelpFormatter(argparse.HelpFormatter):
    """Shows defaults, except None, False and empty lists."""

    def __init__(self, prog: str) -> None:
        # argparse makes one formatter per argument, and would import shutil just to find the width
        # of the terminal.
        super().__init__(prog, max_help_position=28, width=_columns() - 2)

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if (
            action.help is None
            or "default" in action.help
            or action.default in (None, False, "", [])
        ):
            return action.help
        return f"{action.help} (default: %(default)s)"


class ArgumentParser(argparse.ArgumentParser):
    """A parser that raises errors instead of printing them, so that 32 ranks do not print 32 times.

    Parameters
    ----------
    prog : str
        The module, shown as ``galaxy-mpi`` and the subcommand.
    description : str
        One sentence.
    """

    def __init__(self, prog: str, description: str) -> None:
        super().__init__(
            prog=prog.replace("galaxy_mpi.", "galaxy-mpi ", 1),
            description=description,
            usage="%(prog)s [options]",
            add_help=False,
            allow_abbrev=False,
            formatter_class=_HelpFormatter,
        )
        self.add_argument("-h", "--help", action="store_true", help="show this help")

    def named(self) -> list[argparse.Action]:
        """Return the options, in order."""
        return [action for action in self._actions if action.option_strings]

    def check_swept(self, texts: Iterable[str], not_swept: Sequence[str]) -> None:
        """Raise ConfigError if a text of ``--sweep`` does not begin with the name of an option.

        Parameters
        ----------
        texts : iterable of str
            ``KEY=A,B,C`` each.
        not_swept : sequence of str
            Options that `Sweep.parse` refuses.
        """
        takes_value = [action for action in self.named() if action.nargs != 0]
        names = [action.option_strings[-1].removeprefix("--") for action in takes_value]
        known = [name for name in names if name not in not_swept]
        for text in texts:
            key = text.partition("=")[0].lstrip("-")
            if key not in (*known, *not_swept):
                raise ConfigError(f"--sweep: no option {key[:80]!r}; {did_you_mean(key, known)}")

    def error(self, message: str) -> NoReturn:
        """Raise ConfigError, in other words than argparse where those are hard to read."""
        option, _, what = message.removeprefix("argument ").partition(": ")
        for words, plainly in _PLAINLY.items():
            if what.startswith(words):
                message = f"{option} {plainly}{what.removeprefix(words)}"
        if option == "unrecognized arguments":
            from difflib import get_close_matches  # no rank of a run that starts needs it

            known = [name for action in self._actions for name in action.option_strings]
            unknown = [word.partition("=")[0] for word in what.split() if word.startswith("--")]
            close = [name for word in unknown[:1] for name in get_close_matches(word, known, 1)]
            message += "".join(f"; did you mean {name}?" for name in close)
        raise ConfigError(f"{message} (see {self.prog} --help)")


_PLAINLY = {
    "invalid int value: ": "takes a whole number, got ",
    "invalid float value: ": "takes a number, got ",
    "expected one argument": "needs a value",
}
"""Words of argparse about an option, and ours."""


def add_transport(parser: ArgumentParser) -> None:
    """Add the options of commands that run on ranks."""
    add = parser.add_argument_group("ranks").add_argument
    add(
        "--transport",
        default="auto",
        metavar="T",
        help="auto, mpi (persistent requests) or shared (memory of one host)",
    )
    add(
        "--wait-timeout",
        type=float,
        metavar="SECONDS",
        help=f"end the run if a chip waits longer than this for another; 0: never (default: "
        f"{WAIT_TIMEOUT_S:.0f}, more for large models and long prompts)",
    )
    add(
        "--chips-per-rank",
        type=int,
        default=1,
        metavar="N",
        help="chips per rank; with all chips of the mesh, no mpirun is needed",
    )


def check_timeout(seconds: float | None) -> None:
    """Raise ConfigError if ``--wait-timeout`` is no time."""
    if seconds is not None and not (seconds >= 0 and math.isfinite(seconds)):
        raise ConfigError(f"--wait-timeout must be 0 or more seconds, got {seconds}")
