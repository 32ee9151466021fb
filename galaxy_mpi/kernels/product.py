"""The compiled product of bfloat16 matrices (``_product.c``), where it was built.

It reads a weight piece by piece as it is unpacked, so a large weight is never unpacked as a whole.
A row of the result has the same bits whatever the other rows are.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from galaxy_mpi.arrays import F32

__all__ = ["BF16Product", "compiled_product"]

BF16Product = Callable[[NDArray[np.uint16], NDArray[np.uint16], F32, bool, int], None]
"""``(x, w, out, adds, level)``: writes ``x @ w`` to ``out``, or adds it; x (M, K) and w (K, N) hold
bfloat16, ``out`` (M, N) is float32; K is even."""

INTERFACE = 1
"""What this file expects of the extension; `_product.c` has the same number."""


def compiled_product() -> tuple[BF16Product, int] | None:
    """Return the product and the fastest level of this processor.

    None if it was not built, or has no vectors that make it faster than numpy.
    """
    try:
        from galaxy_mpi.kernels import _product as built
    except ImportError:
        return None
    module: Any = built
    if module.INTERFACE != INTERFACE:
        return None
    return (module.add_product, module.N_LEVELS - 1) if module.N_LEVELS > 1 else None
