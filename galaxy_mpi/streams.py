"""Standard input and output of ``galaxy-mpi``, for rank 0 of the mpirun that it started.

mpirun stands between them. It passes on whole lines of output only, and Open MPI 5's never tells
rank 0 that the input has ended. Rank 0 therefore opens the descriptors of ``galaxy-mpi`` itself,
whose paths are in two variables (`galaxy_mpi.cli.terminal`).
"""

import os
import sys
from collections.abc import Mapping
from contextlib import suppress

from galaxy_mpi.errors import ConfigError

__all__ = ["INPUT", "OUTPUT", "read_input", "write_past_mpirun"]

INPUT = "GALAXY_MPI_INPUT"
OUTPUT = "GALAXY_MPI_OUTPUT"


def read_input(most: int, environ: Mapping[str, str]) -> bytes:
    """Return standard input up to its end, or its first ``most`` bytes.

    Raises
    ------
    ConfigError
        If its end cannot be known.
    OSError
        If it cannot be read.
    """
    if INPUT in environ:
        with open(environ[INPUT], "rb") as passed_on:
            return passed_on.read(most)
    if environ.get("PMIX_NAMESPACE", "").startswith("prterun"):  # Open MPI 5
        raise ConfigError(
            "Open MPI's mpirun does not tell ranks where standard input ends; name a file, or "
            "start the ranks with galaxy-mpi decode"
        )
    return b"" if sys.stdin is None else sys.stdin.buffer.read(most)  # None: it was closed


def write_past_mpirun(environ: Mapping[str, str]) -> None:
    """Let standard output be that of ``galaxy-mpi``, if it can be opened."""
    with suppress(OSError, KeyError):
        # A named pipe that nobody reads any more would let a blocking open wait for ever.
        output = os.open(environ[OUTPUT], os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK)
        os.set_blocking(output, True)
        os.dup2(output, 1)
        os.close(output)
