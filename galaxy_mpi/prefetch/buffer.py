"""Statistics of a weight source, and the size of the circular buffer."""

from collections.abc import Mapping
from dataclasses import dataclass

from galaxy_mpi.dtypes import PackedTensor
from galaxy_mpi.errors import ConfigError
from galaxy_mpi.weights import WeightId

__all__ = ["DEFAULT_BUFFER_BYTES", "PrefetchStats", "buffer_bytes"]

DEFAULT_BUFFER_BYTES = 24 * 792_064
"""The global circular buffer of a chip: 728 tiles of 1,088 bytes on each of 24 receiver cores
(tt-metal, prefetcher_common.py). Here it bounds *unpacked* bytes of host memory."""


@dataclass
class PrefetchStats:
    """Statistics of a weight source; seconds of host time."""

    stalls: int = 0
    stall_s: float = 0.0
    full_waits: int = 0
    full_wait_s: float = 0.0
    peak_bytes: int = 0
    capacity_bytes: int = 0

    def add(self, other: "PrefetchStats") -> None:
        """Add the counts of another weight source that came after this one."""
        self.stalls += other.stalls
        self.stall_s += other.stall_s
        self.full_waits += other.full_waits
        self.full_wait_s += other.full_wait_s
        self.peak_bytes = max(self.peak_bytes, other.peak_bytes)
        self.capacity_bytes = max(self.capacity_bytes, other.capacity_bytes)


def buffer_bytes(tensors: Mapping[WeightId, PackedTensor], asked: int | None) -> int:
    """Return the capacity of the circular buffer.

    By default the Galaxy's, or twice the largest weight if that is more.

    Raises
    ------
    ConfigError
        If ``asked`` is smaller than the largest weight.
    """
    # Sorted, because a shard cache returns them in a different order than the model.
    largest = max(sorted(tensors, key=str), key=lambda weight: tensors[weight].unpacked_bytes)
    need = tensors[largest].unpacked_bytes
    if asked is None:
        return max(DEFAULT_BUFFER_BYTES, 2 * need)
    if asked < need:
        raise ConfigError(
            f"--circular-buffer-bytes {asked} cannot hold {largest}, which has {need} bytes "
            f"unpacked on each chip; give at least {need}, better {2 * need}"
        )
    return asked
