"""Weights on their way to the matmul: read in place, unpacked when used, or ahead by a thread.

`DirectFeed` and `PrefetchFeed` bind the same values; a run chooses one of them once. Large weights
pass by both: `WeightStream` unpacks and multiplies them piece by piece.
"""

from galaxy_mpi.prefetch.buffer import PrefetchStats, buffer_bytes
from galaxy_mpi.prefetch.feeds import DirectFeed, Prefetcher, PrefetchFeed
from galaxy_mpi.prefetch.places import Place, Places
from galaxy_mpi.prefetch.prompt_rows import ProductRows
from galaxy_mpi.prefetch.stream import WeightStream

__all__ = [
    "DirectFeed",
    "Place",
    "Places",
    "PrefetchFeed",
    "PrefetchStats",
    "Prefetcher",
    "ProductRows",
    "WeightStream",
    "buffer_bytes",
]
