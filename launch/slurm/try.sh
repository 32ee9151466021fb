#!/bin/sh
# Run launch/slurm/galaxy.sbatch on a Slurm of two nodes that this script makes on this machine, and
# compare it with mpirun: same tokens, same device time. Needs root and Slurm (Debian: apt-get install
# slurm-wlm munge libpmix-dev).
#
#   sh launch/slurm/try.sh [RANKS [arguments of galaxy_mpi.decode]]        4 ranks
#
# The daemons live in namespaces of their own (processes, network, mounts) and end with the script.
# Ends with 77 where that is not possible.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
root=$(CDPATH='' cd -- "$here/../.." && pwd)
skip() {
    echo "slurm: $*; nothing was run" >&2
    exit 77
}
if [ "${1:-}" != --inside ]; then
    [ "$(id -u)" = 0 ] || skip "only root can start a Slurm of its own"
    for program in slurmctld slurmd munged sbatch srun unshare ip; do
        command -v "$program" >/dev/null || skip "no $program (Debian: apt-get install slurm-wlm munge libpmix-dev iproute2)"
    done
    unshare --mount --net --pid --fork --kill-child true 2>/dev/null || skip "no namespaces"
    exec unshare --mount --net --pid --fork --mount-proc --kill-child sh "$0" --inside "$@"
fi
shift
ranks=${1:-4}
[ $# = 0 ] || shift
[ $((ranks % 2)) = 0 ] || { echo "slurm: $ranks ranks do not divide by 2" >&2 && exit 2; }
mesh=$((ranks / 2))x2
[ "$ranks" -lt 32 ] || mesh=8x4

work=$(mktemp -d)
# All processes of this namespace: the daemons would go on writing there.
trap 'kill -9 -1 2>/dev/null || true; sleep 0.2; rm -rf "$work"' EXIT
trap 'exit 130' INT HUP TERM
chmod 755 "$work"
# Slurm wants an address that is not the loopback's.
ip link set lo up
ip link add eth0 type veth peer name eth1
ip address add 10.0.0.1/24 dev eth0
ip link set eth0 up
ip link set eth1 up
name=$(hostname -s)
mkdir "$work/state" "$work/etc"
{ cat /etc/hosts && echo "10.0.0.1 $name galaxy0 galaxy1"; } >"$work/etc/hosts"
mount --bind "$work/etc/hosts" /etc/hosts

# Slurm proves with munge who is asking; the key is of this run alone.
head -c 1024 /dev/urandom >"$work/munge.key"
chmod 400 "$work/munge.key"
munged --force --socket="$work/munge" --key-file="$work/munge.key" --pid-file="$work/munge.pid" \
    --log-file="$work/munge.log" --seed-file="$work/munge.seed" >"$work/munged.out" 2>&1 ||
    skip "munged does not start: $(cat "$work/munged.out" "$work/munge.log" 2>/dev/null | tail -1)"
cat >"$work/slurm.conf" <<CONF
ClusterName=try
SlurmctldHost=$name(10.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$work/munge
StateSaveLocation=$work/state
SlurmdSpoolDir=$work/%n
TmpFS=$work/%n
SlurmctldPidFile=$work/slurmctld.pid
SlurmdPidFile=$work/%n.pid
SlurmctldLogFile=$work/slurmctld.log
SlurmdLogFile=$work/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=2
NodeName=galaxy[0-1] NodeHostname=$name NodeAddr=10.0.0.1 Port=[17001-17002] CPUs=$ranks RealMemory=16000
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
export SLURM_CONF="$work/slurm.conf"
slurmctld
for node in galaxy0 galaxy1; do
    mkdir "$work/$node"
    slurmd -N "$node" || skip "slurmd does not start: $(tail -1 "$work/$node.log")"
done
tries=0
until [ "$(sinfo --noheader --states=idle --format=%D 2>/dev/null)" = 2 ]; do
    tries=$((tries + 1))
    [ "$tries" -lt 60 ] || skip "the nodes do not come up: $(tail -2 "$work/slurmctld.log")"
    sleep 0.5
done
srun --mpi=pmix true 2>"$work/pmix" || skip "no PMIx (Debian: apt-get install libpmix-dev): $(tail -1 "$work/pmix")"

# shellcheck disable=SC1091
. "${GALAXY_MPI_VENV:-$root/.venv}/bin/activate"
export GALAXY_MPI_VENV="${GALAXY_MPI_VENV:-$root/.venv}"
cd "$root"
echo "slurm: mpirun, $ranks ranks"
mpirun -n "$ranks" python -m galaxy_mpi.decode --mesh "$mesh" --quiet --json "$work/mpirun.json" "$@" >/dev/null
echo "slurm: sbatch, 2 nodes, $ranks ranks"
# shellcheck disable=SC2016 # the shell of each node expands it
srun --nodes=2 --ntasks=2 --ntasks-per-node=1 --mem=100 sh -c 'echo "$SLURMD_NODENAME"' | sort
sbatch --wait --parsable --nodes=2 --ntasks="$ranks" --ntasks-per-node=$((ranks / 2)) --mem-per-cpu=200M \
    --output="$work/out" "$here/galaxy.sbatch" --mesh "$mesh" --quiet --json "$work/slurm.json" "$@" >/dev/null ||
    { cat "$work/out" "$work"/*.log >&2; exit 1; }
python - "$work/mpirun.json" "$work/slurm.json" <<'PYTHON'
import json
import sys

mpirun, slurm = (json.load(open(path)) for path in sys.argv[1:])
assert mpirun["tokens"] == slurm["tokens"], "other tokens"
assert mpirun["device"] == slurm["device"], "other device time"
print("same tokens, same device time")
PYTHON
