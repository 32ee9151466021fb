import numpy as np
from numpy.typing import NDArray

from galaxy_mpi.arrays import F32

INTERFACE: int
N_LEVELS: int

def add_product(
    x: NDArray[np.uint16], w: NDArray[np.uint16], out: F32, adds: bool, level: int, /
) -> None: ...
