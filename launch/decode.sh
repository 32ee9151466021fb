#!/bin/sh
# Set up if need be, then run the main job: one rank per chip of the mesh.
#
#   sh launch/decode.sh [arguments of galaxy-mpi decode]
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
sh "$here/setup.sh"
exec "${GALAXY_MPI_VENV:-$here/../.venv}/bin/python" -m galaxy_mpi decode "$@"
