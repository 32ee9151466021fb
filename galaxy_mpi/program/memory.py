"""Memory that an op needs on a chip for the whole run."""

from typing import NamedTuple

from galaxy_mpi.dtypes import DType
from galaxy_mpi.kernels import Fidelity
from galaxy_mpi.weights import Weight

__all__ = ["Matrix"]


class Matrix(NamedTuple):
    """A matmul weight, as the device holds it."""

    weight: Weight
    rows: int
    columns: int
    dtype: DType
    activation: DType
    """Format of the activation it is multiplied by."""
    fidelity: Fidelity
    is_prefetched: bool = True
    """Whether it is laid out for the prefetcher, even if there is none."""
