"""The command ``galaxy-mpi``: a table of subcommands, and the ranks that they need.

Nothing here imports numpy or MPI: starting 32 ranks should not first wait for imports that the
launcher does not use.
"""

from galaxy_mpi.cli.main import main
from galaxy_mpi.cli.subcommands import SUBCOMMANDS, Subcommand

__all__ = ["SUBCOMMANDS", "Subcommand", "main"]
