"""The command ``galaxy-mpi``: a table of subcommands, and the ranks that they need.

Nothing here imports numpy or MPI: whoever starts 32 ranks should not wait for a 33rd to import what
it does not use.
"""

from galaxy_mpi.cli.main import main
from galaxy_mpi.cli.subcommands import SUBCOMMANDS, Subcommand

__all__ = ["SUBCOMMANDS", "Subcommand", "main"]
