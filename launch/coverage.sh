#!/bin/sh
# Branch coverage of the package, subprocesses and ranks included.
#
#   sh launch/coverage.sh [quick|all]
#
# quick: the tests that start no ranks, some minutes. all, which is the default: also 4 ranks, 8
# ranks and the whole commands, about an hour; it fails under 90 %. build/coverage/html has each line.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
cd "$here/.."
what=${1:-all}
case $what in
quick | all) ;;
*)
    echo "usage: sh launch/coverage.sh [quick|all]" >&2
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
if [ "$what" = all ]; then
    least=90
    for ranks in 4 8; do
        timeout 3000 mpirun -n "$ranks" coverage run -m pytest tests/mpi --with-mpi || failed=1
    done
    coverage run -m pytest --numprocesses 2 --dist loadfile tests/command || failed=1
fi
coverage combine --quiet
coverage html --quiet --directory build/coverage/html
coverage report --fail-under "$least" || failed=1
exit "$failed"
