"""Tokens, logits and device time of runs are what is pinned, to the last bit.

A selection of all cases; ``python -m tests.pins --check`` plays the slow ones too.
"""

import pytest

from galaxy_mpi.blas import blas_kernels
from tests.pins.cases import LOGITS, TOKENS_QUICK
from tests.pins.commands import Inputs
from tests.pins.golden import FILES, check


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return Inputs(tmp_path_factory.mktemp("pins"))


@pytest.mark.skipif(
    blas_kernels() != "OpenBLAS Haswell", reason=f"pinned are not the bits of {blas_kernels()}"
)
@pytest.mark.parametrize("case", [*TOKENS_QUICK, *LOGITS])
def test_a_run_gives_what_is_pinned(case, inputs):
    (golden,) = (golden for golden in FILES if case in golden.cases)
    check(golden, case, inputs)
