"""``galaxy-mpi SUBCOMMAND ...``: run it here, or on as many ranks as its mesh has chips."""

import os
import shlex
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module

from galaxy_mpi import __version__
from galaxy_mpi.blas import one_thread_per_rank
from galaxy_mpi.cli.launch import ALLOW_ROOT, Launch, find_launcher
from galaxy_mpi.cli.subcommands import HELP_WORDS, SUBCOMMANDS, Subcommand
from galaxy_mpi.errors import EXIT_USER_ERROR, ConfigError, UserError, did_you_mean
from galaxy_mpi.output import print_text

__all__ = ["main", "overview"]

SHOW_COMMAND = "--show-command"


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand, in this process or on ranks that mpirun starts; return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    own = {option for option in (ALLOW_ROOT, SHOW_COMMAND) if _taken(words, option)}
    try:
        if not words or words[0] in (*HELP_WORDS, "help"):
            return _print(overview())
        if words[0] == "--version":
            return _print(f"galaxy_mpi {__version__}")
        return _run(_subcommand(words[0]), words[1:], own)
    except UserError as error:
        print(f"galaxy_mpi: {error}", file=sys.stderr)
        return EXIT_USER_ERROR


def overview() -> str:
    """Return the list of subcommands."""
    width = max(len(each.name) for each in SUBCOMMANDS)
    lines = [f"  {each.name:<{width}}  {each.summary}" for each in SUBCOMMANDS]
    return "\n".join(
        [
            "usage: galaxy-mpi SUBCOMMAND [options]",
            "",
            "An emulator of a 32-chip Tenstorrent Galaxy: one MPI rank plays one chip.",
            "",
            *lines,
            "",
            f"  {'-h, --help':<20}  list subcommands; after a subcommand, list its options",
            f"  {'--version':<20}  show the version",
            f"  {SHOW_COMMAND:<20}  print the command that starts the ranks; run nothing",
            f"  {ALLOW_ROOT:<20}  start ranks as root even outside a container",
            "",
            "decode, compare and accuracy start one rank per chip of --mesh. Several hosts:",
            "mpirun -n 32 --hostfile FILE python -m galaxy_mpi.decode",
        ]
    )


def _run(subcommand: Subcommand, words: list[str], own: set[str]) -> int:
    ranks = 1 if _is_rank() else subcommand.ranks(words)
    if ranks > 1:
        command = (sys.executable, "-m", subcommand.module.removesuffix(".__main__"), *words)
        launch = Launch.of(
            find_launcher(os.environ), ranks, command, os.environ, allow_root=ALLOW_ROOT in own
        )
        if SHOW_COMMAND in own:
            settings = [f"{name}={shlex.quote(value)}" for name, value in launch.added.items()]
            return _print(" \\\n    ".join([*settings, shlex.join(launch.words)]))
        return launch.run(os.environ)
    if SHOW_COMMAND in own:
        return _print(shlex.join(["galaxy-mpi", subcommand.name, *words]))
    one_thread_per_rank()
    if subcommand.name == "doctor":
        _set_as_for_ranks(own)
    code: int = import_module(subcommand.module).main(words)
    return code


def _set_as_for_ranks(own: set[str]) -> None:
    """Give this process the launcher and the variables of a run, which the doctor judges."""
    with suppress(ConfigError):  # the doctor finds out by itself, and has advice
        launcher = find_launcher(os.environ)
        os.environ["PATH"] = os.pathsep.join(
            [str(launcher.path.parent), *filter(None, [os.environ.get("PATH")])]
        )
        launch = Launch.of(launcher, 2, (), os.environ, allow_root=ALLOW_ROOT in own)
        os.environ.update(launch.added)


def _is_rank() -> bool:
    """Return whether mpirun started this process as one of its ranks."""
    if not any(name.endswith("_RANK") for name in os.environ):
        return False
    one_thread_per_rank()  # before numpy is imported
    # Imported here because it needs numpy. The variable alone does not tell who set it.
    from galaxy_mpi.mesh.lifeline import is_rank

    return is_rank(os.environ)


def _subcommand(name: str) -> Subcommand:
    known = {each.name: each for each in SUBCOMMANDS}
    if name not in known:
        raise ConfigError(f"no subcommand {name[:80]!r}; {did_you_mean(name, known)}")
    return known[name]


def _taken(words: list[str], option: str) -> bool:
    """Remove an option of this command; return whether it was there."""
    if option not in words:
        return False
    words.remove(option)
    return True


def _print(text: str) -> int:
    print_text(text)
    return 0
