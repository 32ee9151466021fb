"""What all commands share: parsing arguments and ending a run on all ranks.

If all ranks raise the same error of the user, rank 0 prints it in one line. If only one rank raises
an error (including `SystemExit` and interrupts), that rank prints it and ends all ranks at once,
because the others would wait for it in a collective.
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

    def error(self, message: str) -> NoReturn:
        """Raise ConfigError."""
        raise ConfigError(f"{message} (see {self.prog} --help)")


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


def run_alone(
    parser: ArgumentParser,
    argv: Sequence[str] | None,
    prepare: Callable[[argparse.Namespace], Callable[[], int | None]],
) -> int:
    """Parse and run in one process, without MPI; return the exit code.

    Under mpirun only rank 0 does; the others end at once.

    Parameters
    ----------
    parser : ArgumentParser
    argv : sequence of str or None
        None: the command line.
    prepare : callable
        Turns the arguments into a function to call, which may return an exit code. Both may raise
        errors of the user.
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
    except BrokenPipeError:  # the reader closed the pipe, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def run_on_mesh(
    parser: ArgumentParser,
    argv: Sequence[str] | None,
    prepare: Callable[[argparse.Namespace], tuple[Mesh, Callable[[Transport], int | None]]],
) -> int:
    """Parse, connect and run this rank; return the exit code.

    Parameters
    ----------
    parser : ArgumentParser
    argv : sequence of str or None
        None: the command line.
    prepare : callable
        Turns the arguments into the mesh and the function that each rank calls. It raises errors of
        the user; the function may raise them too, but only on all ranks alike.
    """
    try:
        alone = _without_mpi(parser, argv, prepare)
    except UserError as error:
        return _refuse(error)
    if alone is not None:
        return _play_alone(alone)
    # Imported here because importing a command must not start MPI.
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
    """Return a function if this process needs no MPI, None if it is one rank of several.

    It needs none to show help, or to play all chips of the mesh.

    Raises
    ------
    UserError
        If the request is invalid and no launcher started this process, so there is no other rank.
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
    from galaxy_mpi.mesh.local_transport import LocalTransport  # an ordinary rank needs none

    return lambda: play(LocalTransport(mesh)) or 0


def _play_alone(play: Callable[[], int]) -> int:
    """Run in this process; return the exit code."""
    try:
        return play()
    except UserError as error:
        return _refuse(error)
    except MemoryError as error:
        say(f"galaxy_mpi: {_out_of_memory(error)}\n")
        return 1
    except BrokenPipeError:  # the reader closed the pipe, as `| head` does
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
    """Return the arguments, mesh and function of `run_on_mesh`; None if only help was asked for.

    Hosts may differ (folders, environment), so an error on one rank is shared with all.
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
    """Return the exit code for an error that all ranks raise.

    Only rank 0 exits with an error, because mpirun ends all ranks at the first non-zero exit, which
    must not happen before the message is printed.
    """
    from galaxy_mpi.mesh.mpi import world_rank

    if world_rank() != 0 or is_other_rank(os.environ, ["SLURM_PROCID"]):
        return 0
    say(f"galaxy_mpi: {error}\n")
    return EXIT_USER_ERROR


def _tell(error: BaseException) -> None:
    """Print the error of this rank to standard error, if possible.

    It is a single write, so that the output of other ranks cannot come between its lines.
    """
    if isinstance(error, UserError):
        say(f"galaxy_mpi: {error}\n")
        return
    rank = "?"
    with contextlib.suppress(Exception):  # MPI itself may have failed
        from galaxy_mpi.mesh.mpi import world_rank

        rank = str(world_rank())
    if isinstance(error, CollectiveError):  # its message says everything; a traceback adds nothing
        say(f"galaxy_mpi: rank {rank}: {error}\n")
        return
    if isinstance(error, MemoryError):
        say(f"galaxy_mpi: rank {rank}: {_out_of_memory(error)}\n")
        return
    say(f"galaxy_mpi: rank {rank} failed:\n{traceback.format_exc()}")
