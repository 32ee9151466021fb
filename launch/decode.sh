#!/bin/sh
# Set up if need be, then run the main job: one rank per chip of the mesh.
#
#   sh launch/decode.sh [arguments of galaxy_mpi.decode]
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
sh "$here/setup.sh"
# shellcheck disable=SC1091
. "${GALAXY_MPI_VENV:-$here/../.venv}/bin/activate"

# As many ranks as the mesh has chips: 32, or what --mesh says.
mesh=8x4
previous=
for argument in "$@"; do
    case $argument in
    --mesh=*) mesh=${argument#--mesh=} ;;
    esac
    [ "$previous" != --mesh ] || mesh=$argument
    previous=$argument
done
case $mesh in
[1-9]x[1-9] | [1-9]x[1-9][0-9] | [1-9][0-9]x[1-9]) ranks=$((${mesh%x*} * ${mesh#*x})) ;;
*) ranks=1 ;; # the command says what is wrong with it
esac

exec mpirun -n "$ranks" python -m galaxy_mpi.decode "$@"
