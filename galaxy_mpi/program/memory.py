"""What an op needs of a chip's memory from the first step to the last."""

from dataclasses import dataclass

from galaxy_mpi.dtypes import DType
from galaxy_mpi.kernels import Fidelity

__all__ = ["Matrix"]


@dataclass(frozen=True)
class Matrix:
    """A matmul weight, as the device holds it."""

    name: str
    rows: int
    columns: int
    dtype: DType
    activation: DType
    """Format of what it is multiplied by."""
    fidelity: Fidelity
    is_prefetched: bool = True
    """Whether it is laid out for the prefetcher, whether or not there is one."""
