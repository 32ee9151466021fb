#!/bin/sh
# The unit tests under other Pythons, each with an environment of its own from locks/, kept in
# build/pythons.
#
#   sh launch/pythons.sh PYTHON...      for example ~/.pyenv/versions/3.1[0-3]*/bin/python
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
cd "$here/.."
[ $# -gt 0 ] || {
    echo "usage: sh launch/pythons.sh PYTHON..." >&2
    exit 2
}
failed=
for python in "$@"; do
    name=$("$python" -c 'import platform; print(platform.python_version())')
    venv=$PWD/build/pythons/$name
    echo "pythons: $name" >&2
    PYTHON=$python GALAXY_MPI_VENV=$venv sh launch/setup.sh test || {
        failed="$failed $name (set-up)"
        continue
    }
    OPENBLAS_NUM_THREADS=1 "$venv/bin/python" -m pytest -q --numprocesses 2 --dist loadfile tests/unit ||
        failed="$failed $name"
done
[ -z "$failed" ] || {
    echo "pythons: failed:$failed" >&2
    exit 1
}
