"""The matrix product of one chip, of large matrices of bfloat16 values: torch's or numpy's.

Uses the first that is available: a kernel of bfloat16 instructions in torch
(`galaxy_mpi.kernels.bfloat16_product`), torch's product of float32, numpy's. All add in float32 and
lose no bit of a factor, so they differ in the order of additions, and the first counts subnormal
numbers as zero. Importing torch takes seconds in each rank, so it is used only for large weights,
and it is optional.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from galaxy_mpi.arrays import F32, Call
from galaxy_mpi.dtypes import Float32Factors

if TYPE_CHECKING:
    from galaxy_mpi.kernels.bfloat16_product import Bfloat16Product

__all__ = ["LARGE", "NumpyProduct", "TorchProduct", "chosen_product", "column_parts"]

LARGE = 2**20
"""Values from which on a weight is multiplied in pieces, and with torch."""

_SMALL = 10**6
"""Products of numbers up to which OpenBLAS multiplies without first copying the second factor.

That is the limit of its kernels for small matrices (``sgemm_small_kernel_permit``) for processors
with AVX-512, where it saves a quarter of the time. Others may have no such kernels; there a cut
costs a call.
"""

_NARROW = 64
"""Fewer columns gain nothing."""


def column_parts(n_rows: int, depth: int, width: int) -> list[slice]:
    """Return the columns that numpy multiplies together fastest, of a product of (M, K) by (K, N).

    Examples
    --------
    >>> column_parts(32, 144, 192), column_parts(32, 144, 256)
    ([slice(0, 192, None)], [slice(0, 128, None), slice(128, 256, None)])
    """
    most = _SMALL // max(1, n_rows * depth) // 16 * 16
    if most < _NARROW or width <= most:
        return [slice(0, width)]
    n_parts = -(-width // most)
    each = -(-width // (16 * n_parts)) * 16
    return [slice(start, min(start + each, width)) for start in range(0, width, each)]


class NumpyProduct:
    """Numpy's, see `galaxy_mpi.prefetch.pieces.Product`."""

    name = "numpy"
    needs_term = True
    factors = Float32Factors()

    def bind(self, x: F32, w: F32, out: F32, term: F32, *, adds: bool) -> list[Call]:
        """Multiply, then add."""
        if not adds:
            return [(np.matmul, (x, w, out))]
        return [(np.matmul, (x, w, term)), (np.add, (out, term, out))]

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Need nothing."""
        yield


class TorchProduct:
    """Torch's, on one core, as the other ranks use the others."""

    name = "float32"
    needs_term = False
    factors = Float32Factors()

    def __init__(self) -> None:
        import torch

        self._torch: Any = torch
        torch.set_num_threads(1)

    def bind(self, x: F32, w: F32, out: F32, term: F32, *, adds: bool) -> list[Call]:
        """Multiply and add in one call."""
        torch = self._torch
        result = torch.from_numpy(out)
        factors = torch.from_numpy(x), torch.from_numpy(w)
        if adds:
            return [(lambda: torch.addmm(result, *factors, out=result), ())]
        return [(lambda: torch.mm(*factors, out=result), ())]

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Let torch use bfloat16 inside, which is exact for these values."""
        # The setting is the whole process's, and others there may use torch.
        before = self._torch.get_float32_matmul_precision()
        self._torch.set_float32_matmul_precision("medium")
        try:
            yield
        finally:
            self._torch.set_float32_matmul_precision(before)


def chosen_product() -> "Bfloat16Product | TorchProduct | NumpyProduct":
    """Return the fastest product that there is."""
    if find_spec("torch") is None:
        return NumpyProduct()
    from galaxy_mpi.kernels.bfloat16_product import Bfloat16Product, NoKernelError

    try:
        return Bfloat16Product()
    except NoKernelError:
        return TorchProduct()
