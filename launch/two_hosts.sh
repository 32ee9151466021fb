#!/bin/sh
# Run the decode command over hosts that are network namespaces of this one, and compare it with
# the same run on one host: same tokens, same device time. Needs root and iproute2.
#
#   sh launch/two_hosts.sh [HOSTS [RANKS [arguments of galaxy_mpi.decode]]]     2 hosts, 4 ranks
#
# Each host has its own network (a veth pair to a bridge), its own host name and its own /dev/shm,
# so ranks share memory inside a host only. Ends with 77 where namespaces cannot be made. With
# FAULT="kill step 3" the last run has that fault of galaxy_mpi.faults.rank and is not compared.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
venv=${GALAXY_MPI_VENV:-$here/../.venv}
if [ "${1:-}" = --agent ]; then # mpirun calls this in place of ssh: --agent HOST COMMAND...
    host=$2
    shift 2
    export HOST_NAME="$host"
    # A host name of its own, and memory of its own; no address of the machine outside.
    # shellcheck disable=SC2016 # the inner shell expands these
    exec ip netns exec "$host" unshare --uts --mount --ipc --fork sh -c \
        'hostname "$HOST_NAME" && mount -t tmpfs -o size=256m tmpfs /dev/shm && exec sh -c "$*"' sh "$@"
fi

hosts=${1:-2}
ranks=${2:-4}
if [ $# -le 2 ]; then shift $#; else shift 2; fi
skip() {
    echo "two_hosts: $*; nothing was run" >&2
    exit 77
}
command -v ip >/dev/null || skip "no ip (Debian: apt-get install iproute2)"
command -v unshare >/dev/null || skip "no unshare (Debian: apt-get install util-linux)"
[ "$(id -u)" = 0 ] || skip "only root can make network namespaces"
case $hosts in [2-9]) ;; *) echo "two_hosts: 2 to 9 hosts, got $hosts" >&2 && exit 2 ;; esac
[ $((ranks % hosts)) = 0 ] || { echo "two_hosts: $ranks ranks do not divide by $hosts" >&2 && exit 2; }

# Names of this run alone: others may do the same beside.
id=$(printf '%x' $$)
hub=gm$id-hub
work=$(mktemp -d)
take_down() {
    n=0
    while [ "$n" -lt "$hosts" ]; do
        ip netns pids "gm$id-$n" 2>/dev/null | xargs -r kill -9 2>/dev/null || true
        ip netns delete "gm$id-$n" 2>/dev/null || true
        n=$((n + 1))
    done
    ip netns delete "$hub" 2>/dev/null || true
    rm -rf "$work" /etc/netns/gm"$id"-*
}
trap take_down EXIT
trap 'exit 130' INT HUP TERM

# One subnet of 10.0.0.0/8 by the number of this process.
net=10.$((($$ / 250) % 250)).$(($$ % 250))
# The bridge has a namespace too: PMIx fails to start if an interface comes or goes while it looks.
ip netns add "$hub" 2>"$work/error" || skip "no network namespaces: $(cat "$work/error")"
ip -n "$hub" link add bridge type bridge 2>"$work/error" || skip "no bridge: $(cat "$work/error")"
ip -n "$hub" link set bridge up
n=0
: >"$work/hostfile"
while [ "$n" -lt "$hosts" ]; do
    host=gm$id-$n
    ip netns add "$host" 2>"$work/error" || skip "no network namespaces: $(cat "$work/error")"
    ip -n "$hub" link add "v$n" type veth peer name eth0 netns "$host"
    ip -n "$hub" link set "v$n" master bridge up
    ip -n "$host" link set lo up
    ip -n "$host" address add "$net.$((n + 1))/24" dev eth0
    ip -n "$host" link set eth0 up
    mkdir -p "/etc/netns/$host"
    echo "$host slots=$((ranks / hosts))" >>"$work/hostfile"
    n=$((n + 1))
done
n=0
while [ "$n" -lt "$hosts" ]; do # each knows the others by name; ip netns mounts this as /etc/hosts
    echo "127.0.0.1 localhost" >"/etc/netns/gm$id-$n/hosts"
    m=0
    while [ "$m" -lt "$hosts" ]; do
        echo "$net.$((m + 1)) gm$id-$m" >>"/etc/netns/gm$id-$n/hosts"
        m=$((m + 1))
    done
    n=$((n + 1))
done

# shellcheck disable=SC1091
. "$venv/bin/activate"
mesh=$((ranks / 2))x2
[ "$ranks" -ge 4 ] || mesh=1x$ranks
[ "$ranks" -lt 32 ] || mesh=8x4

# mpirun runs on the first host, and starts daemons on the others through the agent.
over_hosts() {
    sh "$here/two_hosts.sh" --agent "gm$id-0" exec mpirun -n "$ranks" \
        --hostfile "$work/hostfile" --map-by "ppr:$((ranks / hosts)):node" \
        --prtemca plm_ssh_agent "'sh $here/two_hosts.sh --agent'" \
        --prtemca oob_tcp_if_include eth0 --mca btl_tcp_if_include eth0 "$@"
}

pids() { # of all hosts; the agents of mpirun and those that it ends end a little later than it
    n=0
    while [ "$n" -lt "$hosts" ]; do
        ip netns pids "gm$id-$n"
        n=$((n + 1))
    done
}

if [ -n "${FAULT:-}" ]; then
    export GALAXY_MPI_FAULT_BEGAN="$work/began"
    # In the background, so that this script can be interrupted.
    # shellcheck disable=SC2086
    over_hosts -x GALAXY_MPI_FAULT_BEGAN python -m galaxy_mpi.faults.rank $FAULT \
        --mesh "$mesh" --quiet --wait-timeout "${WAIT_TIMEOUT:-5}" "$@" &
    code=0
    wait "$!" || code=$?
    tries=0
    while [ -n "$(pids)" ] && [ "$tries" -lt 80 ]; do
        sleep 0.25
        tries=$((tries + 1))
    done
    if [ -n "$(pids)" ]; then
        echo "two_hosts: 20 s after mpirun has ended there is still:" >&2
        pids | xargs -r ps -o pid,stat,args >&2
        exit 99
    fi
    [ ! -s "$work/began" ] || python -c "import sys, time
print(f'two_hosts: all gone {time.time() - float(sys.argv[1]):.1f} s after the fault')" "$(cat "$work/began")"
    exit "$code"
fi

echo "two_hosts: one host, $ranks ranks"
mpirun -n "$ranks" python -m galaxy_mpi.decode --mesh "$mesh" --quiet --json "$work/one.json" "$@" >/dev/null
echo "two_hosts: $hosts hosts, $ranks ranks"
over_hosts python -m galaxy_mpi.decode --mesh "$mesh" --quiet --json "$work/more.json" "$@" >/dev/null
over_hosts sh -c "'hostname'" | sort | uniq -c
python - "$work/one.json" "$work/more.json" <<'PYTHON'
import json
import sys

one, more = (json.load(open(path)) for path in sys.argv[1:])
assert one["tokens"] == more["tokens"], "other tokens"
assert one["device"] == more["device"], "other device time"
for name, run in (("one host", one), ("more hosts", more)):
    host = run["host"]
    print(f"{name:<12}decode step {host['decode_step_s'] * 1e3:.1f} ms of host time")
print("same tokens, same device time")
PYTHON
