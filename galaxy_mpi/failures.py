"""What a failed command prints: one line for an error of the user, a traceback for ours.

Each message is a single write, so that the output of other ranks cannot come between its lines.

A process that has run out of memory says so in its last line, whatever error that became.
"""

import contextlib
import os
import sys
import traceback
from collections.abc import Callable

from galaxy_mpi.errors import (
    EXIT_USER_ERROR,
    INTERRUPTED,
    CollectiveError,
    UserError,
    exit_code,
)
from galaxy_mpi.mesh.ending import Interrupted, Terminated, say
from galaxy_mpi.mesh.exhaustion import lacks_memory
from galaxy_mpi.mesh.lifeline import is_other_rank

__all__ = ["guarded", "refused", "tell", "told_by_rank_0"]


def guarded(play: Callable[[], int]) -> int:
    """Call a function in the only process of a command; return its exit code or that of its error.

    Other errors than those of the user, of memory, of collectives and of output pass. A
    ``sys.exit`` in the user's own code is an error, whatever its code: the command has not ended.
    """
    from galaxy_mpi.output import Lasting  # a rank of several needs none

    try:
        if sys.stdout is None:  # Python was started with a closed descriptor
            return play()
        with contextlib.redirect_stdout(Lasting(sys.stdout)) as output:
            try:
                code = play()
            except BaseException:
                with contextlib.suppress(UserError):  # the first error is what is told
                    output.flush()
                raise
            output.flush()
            return code
    except UserError as error:
        return refused(error)
    except CollectiveError as error:
        say(f"galaxy_mpi: {error}\n")
        return exit_code(error)
    except KeyboardInterrupt as error:
        say(f"galaxy_mpi: {_how_ended(error)}\n")
        return INTERRUPTED
    except SystemExit:
        _say_trace()
        return 1
    except Exception as error:
        if not lacks_memory(error):
            raise
        if not isinstance(error, MemoryError):
            _say_trace()
        say(f"galaxy_mpi: {_out_of_memory(error)}\n{_doctors_line(MemoryError())}")
        return 1


def refused(error: UserError) -> int:
    """Print an error of the user; return the exit code."""
    say(f"galaxy_mpi: {error}\n")
    return EXIT_USER_ERROR


def told_by_rank_0(error: UserError) -> int:
    """Print an error that all ranks raise, on rank 0; return the exit code.

    Only rank 0 exits with an error, because mpirun ends all ranks at the first non-zero exit, which
    must not happen before the message is printed.
    """
    from galaxy_mpi.mesh.mpi import world_rank

    if world_rank() != 0 or is_other_rank(os.environ, ["SLURM_PROCID"]):
        return 0
    return refused(error)


def tell(error: BaseException) -> None:
    """Print the error of this rank to standard error, if possible."""
    is_exhausted = not isinstance(error, Terminated) and lacks_memory(error)
    if isinstance(error, UserError):
        say(f"galaxy_mpi: {error}\n")
    elif isinstance(error, CollectiveError):  # it says everything; a traceback adds nothing
        say(f"galaxy_mpi: rank {_rank()}: {error}\n")
    elif isinstance(error, Terminated):  # nor here: whoever asked knows why
        say(
            f"galaxy_mpi: rank {_rank()}: {_how_ended(error)} before there was anything to report\n"
        )
    elif not isinstance(error, MemoryError):
        _say_trace(f"galaxy_mpi: rank {_rank()} failed:\n")
    if is_exhausted:
        say(f"galaxy_mpi: rank {_rank()}: {_out_of_memory(error)}\n")
    if not isinstance(error, UserError) or is_exhausted:
        say(_doctors_line(MemoryError() if is_exhausted else error))


def _how_ended(error: KeyboardInterrupt) -> str:
    is_asked = isinstance(error, Terminated) and not isinstance(error, Interrupted)
    return "asked to end (SIGTERM)" if is_asked else "interrupted"


def _rank() -> str:
    with contextlib.suppress(Exception):  # MPI itself may have failed
        from galaxy_mpi.mesh.mpi import world_rank

        return str(world_rank())
    return "?"


def _say_trace(before: str = "") -> None:
    """Print the traceback of the current error, if there is memory for it."""
    try:
        said = traceback.format_exc()
    except Exception:
        said = "(no memory for the traceback)\n"
    say(before + said)


def _doctors_line(error: BaseException) -> str:
    """Return the doctor's line about the resource that an error is about; empty if it has none."""
    with contextlib.suppress(Exception):  # there may be no memory or descriptor for it
        from galaxy_mpi.health.host import finding_about

        sizes = (os.environ.get(name, "") for name in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE"))
        n_ranks = next((int(size) for size in sizes if size.isdecimal()), 1)
        found = finding_about(error, n_ranks)
        if found is not None:
            return f"galaxy_mpi: doctor: {found.name}: {found.found}; {found.advice}\n"
    return ""


def _out_of_memory(error: BaseException) -> str:
    """Return the line about memory that is not there; numpy's message has the number of bytes."""
    detail = f": {error}" if isinstance(error, MemoryError) and str(error) else ""
    return f"out of memory{detail}; see `ulimit -v` and `free`, or run fewer chips on this host"
