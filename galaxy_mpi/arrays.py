"""Names for the types of arrays that signatures use, and sums that every Python rounds alike.

The shape legend of the project, for names like ``q_BNH``: B users of the batch, T cached
positions, D model dim, F feed-forward dim, N query heads, K kv heads, H head dim, V vocabulary,
R and C mesh rows and columns. Letters name logical dims; ``x_shard_BD`` is a shard of ``x_BD``,
``y_partial_BD`` is a term that is still to be summed.
"""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["F32", "Array", "Bytes", "Call", "Ints", "added"]

F32 = NDArray[np.float32]
Bytes = NDArray[np.uint8]
Ints = NDArray[np.int64]
Array = NDArray[Any]
"""Of any type: where one list or collective has both values and numbers of tokens."""
Call = tuple[Callable[..., object], tuple[object, ...]]
"""Of a program: a function and the arrays that it works on."""


def added(values: Iterable[float]) -> float:
    """Return the sum of floats, added one after the other.

    From Python 3.12 on, the built-in ``sum`` compensates its rounding errors, so the last bits of
    device times would depend on the version.
    """
    total = 0.0
    for value in values:
        total += value
    return total
