#!/bin/sh
# The tests that need no ranks once more, with numpy packing and unpacking in place of the compiled
# codec.
#
#   sh launch/test_numpy.sh [pytest arguments]
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
cd "$here/.."
sh launch/setup.sh test
# shellcheck disable=SC1091
. "${GALAXY_MPI_VENV:-.venv}/bin/activate"

failed=0
export GALAXY_MPI_CODEC=numpy OPENBLAS_NUM_THREADS=1
# All chips in one process: the folder is called chips, or loopback where it has its older name.
for folder in tests/unit tests/chips tests/loopback; do
    [ ! -d "$folder" ] || python -m pytest "$folder" "$@" || failed=1
done
exit "$failed"
