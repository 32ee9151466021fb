"""Weights on their way to the matmul: read when used, or streamed ahead by a thread.

`DirectWeights` and `WeightPrefetcher` have the same methods and give the same values; which one a
run has is chosen once.
"""

from galaxy_mpi.prefetch.circular_buffer import CircularBuffer
from galaxy_mpi.prefetch.prefetcher import WeightPrefetcher
from galaxy_mpi.prefetch.weight_source import DirectWeights, PrefetchStats, WeightId, WeightSource

__all__ = [
    "CircularBuffer",
    "DirectWeights",
    "PrefetchStats",
    "WeightId",
    "WeightPrefetcher",
    "WeightSource",
]
