#!/bin/sh
# Run pytest as one rank of many: rank 0 prints as it goes, the others only if they fail.
set -eu

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
