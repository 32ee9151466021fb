"""What all commands share: arguments that only rank 0 complains about, and a common end.

An error that the user can mend is known to all ranks, and rank 0 prints its one line. Any other
error on any rank prints that rank's traceback and ends all ranks at once, because the others
would wait for it in a collective.
"""

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn

from galaxy_mpi.errors import ConfigError, UserError
from galaxy_mpi.mesh import Mesh, Transport

__all__ = [
    "EXIT_USER_ERROR",
    "ArgumentParser",
    "add_transport",
    "run_alone",
    "run_on_mesh",
]

EXIT_USER_ERROR = 2

RANK_VARIABLES = ("OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK")
"""In which launchers tell a process its rank, before MPI is started."""


class ArgumentParser(argparse.ArgumentParser):
    """A parser that raises instead of printing: 32 ranks must not print 32 usages."""

    def __init__(self, prog: str, description: str) -> None:
        super().__init__(
            prog=prog,
            description=description,
            add_help=False,
            allow_abbrev=False,
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )
        self.add_argument("-h", "--help", action="store_true", help="show this help")

    def error(self, message: str) -> NoReturn:
        """Raise ConfigError."""
        raise ConfigError(f"{message} (see {self.prog} --help)")


def add_transport(parser: ArgumentParser) -> None:
    """Add the argument of commands that run on ranks."""
    parser.add_argument(
        "--transport",
        default="auto",
        help="auto, mpi (persistent requests) or shared (memory of one host)",
    )


def run_alone(
    parser: ArgumentParser,
    argv: Sequence[str] | None,
    prepare: Callable[[argparse.Namespace], Callable[[], None]],
) -> int:
    """Parse and play in one process, without MPI; return the exit code.

    Under mpirun rank 0 does it and the others end at once.

    Parameters
    ----------
    parser : ArgumentParser
    argv : sequence of str or None
        None: the command line.
    prepare : callable
        Turns the arguments into what is to be done. Either may raise errors of the user.
    """
    if any(os.environ.get(name, "0") != "0" for name in RANK_VARIABLES):
        return 0
    try:
        arguments = parser.parse_args(argv)
        if arguments.help:
            print(parser.format_help(), end="")
            return 0
        prepare(arguments)()
    except UserError as error:
        print(f"galaxy_mpi: {error}", file=sys.stderr, flush=True)
        return EXIT_USER_ERROR
    return 0


def run_on_mesh(
    parser: ArgumentParser,
    argv: Sequence[str] | None,
    prepare: Callable[[argparse.Namespace], tuple[Mesh, Callable[[Transport], None]]],
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
    # Here, not above: importing a command must not start MPI.
    from galaxy_mpi.mesh.mpi import MpiTransport, abort, world_rank

    try:
        arguments = parser.parse_args(argv)
        if arguments.help:
            if world_rank() == 0:
                print(parser.format_help(), end="")
            return 0
        mesh, play = prepare(arguments)
        with MpiTransport.connect(mesh, kind=arguments.transport) as transport:
            play(transport)
    except UserError as error:
        # Only rank 0 exits with an error: mpirun ends everybody at the first non-zero exit,
        # and that must not come before the line is out.
        if world_rank() != 0 or os.environ.get("SLURM_PROCID", "0") != "0":
            return 0
        print(f"galaxy_mpi: {error}", file=sys.stderr, flush=True)
        return EXIT_USER_ERROR
    except Exception:
        # One write: what other ranks print cannot come between its lines.
        sys.stderr.write(f"galaxy_mpi: rank {world_rank()} failed:\n{traceback.format_exc()}")
        abort()
    return 0
