#!/bin/sh
# Set up if need be, then run every test there is, cheapest first.
#
#   sh launch/test.sh [pytest arguments]
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
cd "$here/.."
sh launch/setup.sh test
# shellcheck disable=SC1091
. "${GALAXY_MPI_VENV:-.venv}/bin/activate"

failed=0
# A launcher whose process number is that of one that was killed could not start.
python -c "from galaxy_mpi.cli.sessions import remove_stale_sessions as remove; remove()"
# The examples in docstrings; pure functions; all chips in one process; real ranks; whole commands.
python -m pytest --doctest-modules galaxy_mpi "$@" || failed=1
# A file of tests stays in one process; every core has one.
python -m pytest --numprocesses auto --dist loadfile tests/unit tests/chips "$@" || failed=1
# 32 ranks do the main job, fewer all the rest. Only rank 0 prints, unless another fails.
for ranks in 2 4 8 32; do
    echo "== $ranks ranks"
    timeout 1500 mpirun -n "$ranks" sh launch/pytest_rank.sh tests/mpi --with-mpi "$@" || failed=1
done
# Two at a time: they mostly wait.
python -m pytest --numprocesses 2 --dist loadfile tests/command "$@" || failed=1
# Runs in which one thing is broken.
python -m pytest --numprocesses 2 --dist worksteal tests/faults "$@" || failed=1
exit "$failed"
