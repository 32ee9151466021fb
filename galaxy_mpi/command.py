"""How a command runs: alone, or on all ranks, and how it ends.

If all ranks raise the same error of the user, rank 0 prints it in one line. If only one rank raises
an error (including `SystemExit` and interrupts), that rank prints it and ends all ranks at once,
because the others would wait for it in a collective.
"""

import argparse
import atexit
import gc
import os
import time
from collections.abc import Callable, Sequence

from galaxy_mpi.arguments import WAIT_TIMEOUT_S, ArgumentParser, check_timeout
from galaxy_mpi.errors import CollectiveError, UserError, exit_code
from galaxy_mpi.failures import guarded, refused, tell, told_by_rank_0
from galaxy_mpi.mesh import Mesh
from galaxy_mpi.mesh.ending import interrupted_on_request
from galaxy_mpi.mesh.lifeline import RANK_VARIABLES, end_with_launcher, is_other_rank
from galaxy_mpi.mesh.transport import Transport, check_transport

__all__ = ["run_alone", "run_on_mesh"]

_OTHERS_S, _STAGGER_S = 1.0, 0.1
"""How long a rank above 0 waits for lower ones to tell an error, and how much longer by rank."""

_MOST_STAGGERED = 32

_Play = Callable[[Transport], int | None]
"""Returns an exit code on rank 0, or None for 0."""

_Prepare = Callable[[argparse.Namespace], tuple[Mesh, _Play]]


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

    def play() -> int:
        arguments = parser.parse_args(argv)
        if arguments.help:
            print(parser.format_help(), end="")
            return 0
        return prepare(arguments)() or 0

    return guarded(play)


def run_on_mesh(parser: ArgumentParser, argv: Sequence[str] | None, prepare: _Prepare) -> int:
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
        return refused(error)
    if alone is not None:
        return guarded(alone)
    # Imported here because importing a command must not start MPI.
    from galaxy_mpi.mesh import mpi

    # Python collects garbage while it ends, which takes a rank 50 ms of processor time. It does not
    # look at what is frozen.
    atexit.register(gc.freeze)
    code = 0
    try:
        end_with_launcher()
        interrupted_on_request(is_rank_0=not is_other_rank(os.environ, RANK_VARIABLES))
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
            return told_by_rank_0(error)
        try:
            _let_others_tell(error)
            tell(error)
        finally:
            mpi.abort(exit_code(error))
    return code


def _let_others_tell(error: BaseException) -> None:
    """Wait a little if lower ranks may have the same error: the first to tell it ends all.

    A mistake in an op of the user is one on all ranks. That programs differ is not, and each rank
    that notices has something else to say.
    """
    if isinstance(error, Exception) and not isinstance(error, (CollectiveError, MemoryError)):
        rank = next((os.environ[name] for name in RANK_VARIABLES if name in os.environ), "0")
        if rank.isdecimal() and int(rank):
            time.sleep(_OTHERS_S + _STAGGER_S * min(int(rank), _MOST_STAGGERED))


def _without_mpi(
    parser: ArgumentParser, argv: Sequence[str] | None, prepare: _Prepare
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
    check_timeout(arguments.wait_timeout)
    check_transport(arguments.transport)
    mesh, play = prepare(arguments)
    if arguments.chips_per_rank != mesh.n_chips:
        return None
    from galaxy_mpi.mesh.local_transport import LocalTransport  # an ordinary rank needs none

    return lambda: play(LocalTransport(mesh)) or 0


def _prepared(
    parser: ArgumentParser, argv: Sequence[str] | None, prepare: _Prepare
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
            check_timeout(arguments.wait_timeout)
            found = (arguments, *prepare(arguments))
    except UserError as failure:
        error = failure
    mpi.agree(error)
    return found
