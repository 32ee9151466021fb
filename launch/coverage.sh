#!/bin/sh
# Branch coverage of the package, subprocesses and ranks included.
#
#   sh launch/coverage.sh [quick|ranks|all]
#
# quick: the tests that start no ranks, some minutes. ranks: also 4 and 8 ranks. all, which is the
# default: also the whole commands, about an hour. With ranks it fails under 90 %. build/coverage/html
# has each line.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
cd "$here/.."
what=${1:-all}
case $what in
quick | ranks | all) ;;
*)
    echo "usage: sh launch/coverage.sh [quick|ranks|all]" >&2
    exit 2
    ;;
esac
sh launch/setup.sh test,coverage
# shellcheck disable=SC1091
. "${GALAXY_MPI_VENV:-.venv}/bin/activate"

rm -rf build/coverage
mkdir -p build/coverage
failed=0
least=0
OPENBLAS_NUM_THREADS=1 coverage run -m pytest --numprocesses auto --dist loadfile \
    tests/unit tests/chips || failed=1
if [ "$what" != quick ]; then
    least=90
    for ranks in 4 8; do
        timeout 3000 mpirun -n "$ranks" coverage run -m pytest tests/mpi --with-mpi || failed=1
    done
fi
if [ "$what" = all ]; then
    coverage run -m pytest --numprocesses 2 --dist loadfile tests/command || failed=1
fi
coverage combine --quiet
coverage html --quiet --directory build/coverage/html
coverage report --fail-under "$least" || failed=1
exit "$failed"
