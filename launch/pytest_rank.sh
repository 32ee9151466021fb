#!/bin/sh
# Run pytest as one rank of many: rank 0 prints as it goes, the others only if they fail.
set -eu

# One BLAS thread a rank: 32 ranks with a thread pool each would fight for the cores.
export OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1

rank=${OMPI_COMM_WORLD_RANK:-${PMI_RANK:-0}}
if [ "$rank" = 0 ]; then
    exec python -m pytest "$@"
fi
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if ! python -m pytest "$@" >"$log" 2>&1; then
    printf '%s\n' "rank $rank:" "$(cat "$log")" >&2
    exit 1
fi
