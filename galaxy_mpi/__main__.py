"""The command ``galaxy-mpi`` where the script is not on the path: ``python -m galaxy_mpi``."""

import sys

from galaxy_mpi.cli import main

__all__: list[str] = []

if __name__ == "__main__":
    sys.exit(main())
