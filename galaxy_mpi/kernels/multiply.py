"""The matrix product of one chip: numpy, or torch for large matrices of bfloat16 values.

Torch may multiply such matrices with bfloat16 instructions where its library has them for float32
results, and is about as fast as numpy elsewhere. It adds in float32, so no input bits are lost and
the result is not rounded. Importing torch takes seconds in each rank, so it is used only for large
weights. It is optional: without it, numpy multiplies, with the same bits except for the order of
additions.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import numpy as np

from galaxy_mpi.arrays import F32

__all__ = ["LARGE", "NumpyProduct", "TorchProduct", "chosen_product"]

LARGE = 2**20
"""Values from which on a weight is multiplied in pieces, and with torch."""

Call = tuple[Callable[..., object], tuple[object, ...]]


class NumpyProduct:
    """Numpy's, see `galaxy_mpi.prefetch.pieces.Product`."""

    needs_term = True

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

    needs_term = False

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


def chosen_product() -> NumpyProduct | TorchProduct:
    """Return torch's product if torch is installed, else numpy's."""
    return NumpyProduct() if find_spec("torch") is None else TorchProduct()
