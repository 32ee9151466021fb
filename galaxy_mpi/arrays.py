"""Names for the array types that signatures use.

The shape legend of the project, for names like ``q_BNH``: B users of the batch, T cached
positions, D model dim, F feed-forward dim, N query heads, K kv heads, H head dim, V vocabulary,
R and C mesh rows and columns. Letters name logical dims; ``x_shard_BD`` is a shard of ``x_BD``,
``y_partial_BD`` is a term that is still to be summed.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["F32", "Bytes", "Ints"]

F32 = NDArray[np.float32]
Bytes = NDArray[np.uint8]
Ints = NDArray[np.int64]
