"""What all commands share: arguments that only rank 0 complains about, and a common end.

An error that the user can mend and that all ranks raise together is told by rank 0 in one line. An
error on one rank alone, of the user or any other, `SystemExit` and interrupts too, is told by that
rank and ends all ranks at once, because the others would wait for it in a collective.
"""

import argparse
import atexit
import contextlib
import math
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn

from galaxy_mpi.errors import CollectiveError, ConfigError, UserError
from galaxy_mpi.mesh import Mesh
from galaxy_mpi.mesh.ending import say
from galaxy_mpi.mesh.lifeline import RANK_VARIABLES, end_with_launcher, is_other_rank
from galaxy_mpi.mesh.local_transport import LocalTransport
from galaxy_mpi.mesh.transport import Transport

__all__ = [
    "EXIT_USER_ERROR",
    "ArgumentParser",
    "add_transport",
    "run_alone",
    "run_on_mesh",
]

EXIT_USER_ERROR = 2

WAIT_TIMEOUT_S = 20.0
"""Longest wait for another chip, unless the user or the size of the model asks for more."""


def _columns() -> int:
    """Return the width of the terminal."""
    said = os.environ.get("COLUMNS", "")
    if said.isdigit() and len(said) < 5 and int(said) > 0:
        return int(said)
    with contextlib.suppress(AttributeError, ValueError, OSError):
        return os.get_terminal_size(sys.__stdout__.fileno()).columns or 80  # type: ignore[union-attr]
    return 80


class _HelpFormatter(argparse.HelpFormatter):
    """Shows the defaults that say something: no None, no False, no empty list."""

    def __init__(self, prog: str) -> None:
        # argparse makes one for each argument, and would import shutil, with all its archives, to
        # ask how wide the terminal is.
        super().__init__(prog, max_help_position=28, width=_columns() - 2)

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.help is None or "default" in action.help or action.default in (None, False, []):
            return action.help
        return f"{action.help} (default: %(default)s)"


class ArgumentParser(argparse.ArgumentParser):
    """A parser that raises instead of printing: 32 ranks must not print 32 usages.

    Parameters
    ----------
    prog : str
        The module; users see ``galaxy-mpi`` and the subcommand.
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
        """Return the arguments that are options, in order."""
        return [action for action in self._actions if action.option_strings]

    def error(self, message: str) -> NoReturn:
        """Raise ConfigError."""
        raise ConfigError(f"{message} (see {self.prog} --help)")


def add_transport(parser: ArgumentParser) -> None:
    """Add the arguments of commands that run on ranks."""
    add = parser.add_argument_group("ranks").add_argument
    add(
        "--transport",
        default="auto",
        help="auto, mpi (persistent requests) or shared (memory of one host)",
    )
    add(
        "--wait-timeout",
        type=float,
        metavar="SECONDS",
        help=f"end the run when a chip waits longer for another; 0: never; without it "
        f"{WAIT_TIMEOUT_S:.0f}, and more for large models and long prompts",
    )
    add(
        "--chips-per-rank",
        type=int,
        default=1,
        metavar="N",
        help="chips that each rank plays; all chips of the mesh: no mpirun",
    )


def run_alone(
    parser: ArgumentParser,
    argv: Sequence[str] | None,
    prepare: Callable[[argparse.Namespace], Callable[[], int | None]],
) -> int:
    """Parse and play in one process, without MPI; return the exit code.

    Under mpirun rank 0 does it and the others end at once.

    Parameters
    ----------
    parser : ArgumentParser
    argv : sequence of str or None
        None: the command line.
    prepare : callable
        Turns the arguments into what is to be done, which may return an exit code. Either may
        raise errors of the user.
    """
    if is_other_rank(os.environ):
        return 0
    try:
        arguments = parser.parse_args(argv)
        if arguments.help:
            print(parser.format_help(), end="")
            return 0
        code = prepare(arguments)() or 0
        sys.stdout.flush()
        return code
    except UserError as error:
        return _refuse(error)
    except MemoryError as error:
        say(f"galaxy_mpi: {_out_of_memory(error)}\n")
        return 1
    except BrokenPipeError:  # whoever reads has enough, as `| head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def run_on_mesh(
    parser: ArgumentParser,
    argv: Sequence[str] | None,
    prepare: Callable[[argparse.Namespace], tuple[Mesh, Callable[[Transport], int | None]]],
) -> int:
    """Parse, connect and play this rank; return the exit code.

    Parameters
    ----------
    parser : ArgumentParser
    argv : sequence of str or None
        None: the command line.
    prepare : callable
        Turns the arguments into the mesh and what a rank does on it. Errors of the user are
        raised here or, on all ranks alike, by the second.
    """
    try:
        alone = _without_mpi(parser, argv, prepare)
    except UserError as error:
        return _refuse(error)
    if alone is not None:
        return _play_alone(alone)
    # Here, not above: importing a command must not start MPI.
    from galaxy_mpi.mesh import mpi

    code = 0
    try:
        end_with_launcher()
        atexit.register(mpi.finalize)
        chosen = _prepared(parser, argv, prepare)
        if chosen is not None:
            arguments, mesh, play = chosen
            given = arguments.wait_timeout
            with mpi.MpiTransport.connect(
                mesh,
                kind=arguments.transport,
                timeout_s=WAIT_TIMEOUT_S if given is None else given,
                is_timeout_fixed=given is not None,
                chips_per_rank=arguments.chips_per_rank,
            ) as transport:
                code = play(transport) or 0
    except BaseException as error:
        if isinstance(error, UserError) and error.is_common:
            return _told_by_rank_0(error)
        try:
            _tell(error)
        finally:
            mpi.abort(EXIT_USER_ERROR if isinstance(error, UserError) else 1)
    return code


_Play = Callable[[Transport], int | None]
"""Returns an exit code on rank 0, or None for 0."""


def _without_mpi(
    parser: ArgumentParser,
    argv: Sequence[str] | None,
    prepare: Callable[[argparse.Namespace], tuple[Mesh, _Play]],
) -> Callable[[], int] | None:
    """Return what this process does without MPI; None if it is one rank of several.

    That is to show help, or to play all chips of the mesh.

    Raises
    ------
    UserError
        If no launcher started this process, and it cannot do what is asked: there is nobody else
        to tell.
    """
    if any(name in os.environ for name in (*RANK_VARIABLES, "SLURM_PROCID")):
        return None
    arguments = parser.parse_args(argv)
    if arguments.help:
        return lambda: print(parser.format_help(), end="", flush=True) or 0
    _check_timeout(arguments.wait_timeout)
    mesh, play = prepare(arguments)
    if arguments.chips_per_rank != mesh.n_chips:
        return None
    return lambda: play(LocalTransport(mesh)) or 0


def _play_alone(play: Callable[[], int]) -> int:
    """Play in this process; return the exit code."""
    try:
        return play()
    except UserError as error:
        return _refuse(error)
    except MemoryError as error:
        say(f"galaxy_mpi: {_out_of_memory(error)}\n")
        return 1
    except BrokenPipeError:  # whoever reads has enough, as `| head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _out_of_memory(error: MemoryError) -> str:
    """Return the line of an allocation that failed; numpy says of how many bytes."""
    detail = f": {error}" if str(error) else ""
    return f"out of memory{detail}; see `ulimit -v` and `free`, or run fewer chips on this host"


def _refuse(error: UserError) -> int:
    say(f"galaxy_mpi: {error}\n")
    return EXIT_USER_ERROR


def _prepared(
    parser: ArgumentParser,
    argv: Sequence[str] | None,
    prepare: Callable[[argparse.Namespace], tuple[Mesh, _Play]],
) -> tuple[argparse.Namespace, Mesh, _Play] | None:
    """Return the arguments and what `run_on_mesh` prepares; None if help was all.

    Hosts may differ (folders, environment), so all ranks learn of an error on any of them.
    """
    from galaxy_mpi.mesh import mpi

    found: tuple[argparse.Namespace, Mesh, _Play] | None = None
    error: UserError | None = None
    try:
        arguments = parser.parse_args(argv)
        if arguments.help:
            if mpi.world_rank() == 0:
                print(parser.format_help(), end="", flush=True)
        else:
            _check_timeout(arguments.wait_timeout)
            found = (arguments, *prepare(arguments))
    except UserError as failure:
        error = failure
    mpi.agree(error)
    return found


def _check_timeout(seconds: float | None) -> None:
    if seconds is not None and not (seconds >= 0 and math.isfinite(seconds)):
        raise ConfigError(f"--wait-timeout must be 0 or more seconds, got {seconds}")


def _told_by_rank_0(error: UserError) -> int:
    """Return the exit code for an error that all ranks have.

    Only rank 0 exits with an error: mpirun ends everybody at the first non-zero exit, and that
    must not come before the line is out.
    """
    from galaxy_mpi.mesh.mpi import world_rank

    if world_rank() != 0 or is_other_rank(os.environ, ["SLURM_PROCID"]):
        return 0
    say(f"galaxy_mpi: {error}\n")
    return EXIT_USER_ERROR


def _tell(error: BaseException) -> None:
    """Say on standard error what happened to this rank alone, if that is possible.

    One write: what other ranks print cannot come between its lines.
    """
    if isinstance(error, UserError):
        say(f"galaxy_mpi: {error}\n")
        return
    rank = "?"
    with contextlib.suppress(Exception):  # where MPI itself is what failed
        from galaxy_mpi.mesh.mpi import world_rank

        rank = str(world_rank())
    if isinstance(error, CollectiveError):  # its message has all: the trace shows where one waits
        say(f"galaxy_mpi: rank {rank}: {error}\n")
        return
    if isinstance(error, MemoryError):
        say(f"galaxy_mpi: rank {rank}: {_out_of_memory(error)}\n")
        return
    say(f"galaxy_mpi: rank {rank} failed:\n{traceback.format_exc()}")
