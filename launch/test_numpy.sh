#!/bin/sh
# The tests that values in packed formats pass through, once more, with numpy packing and unpacking
# in place of the compiled codec: those of the codec, and of whole runs whose values are pinned.
#
#   sh launch/test_numpy.sh [pytest arguments]
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
cd "$here/.."
sh launch/setup.sh test
# shellcheck disable=SC1091
. "${GALAXY_MPI_VENV:-.venv}/bin/activate"

# A file of tests stays in one process; every core has one.
GALAXY_MPI_CODEC=numpy OPENBLAS_NUM_THREADS=1 exec python -m pytest \
    --numprocesses auto --dist loadfile \
    tests/chips/test_pins.py tests/chips/test_wires.py tests/chips/test_systems.py \
    tests/unit/test_block_float.py tests/unit/test_block_float_codecs.py \
    tests/unit/test_collectives.py tests/unit/test_formats.py tests/unit/test_kernels.py \
    tests/unit/test_kv_cache.py tests/unit/test_prefetch.py tests/unit/test_slabs.py \
    tests/unit/test_systems.py tests/unit/test_wires.py "$@"
