"""Host memory of a rank, by kind, in bytes."""

from typing import NamedTuple

__all__ = ["RankMemory", "proportional_set_bytes"]


class RankMemory(NamedTuple):
    """Host memory of one rank."""

    weights_bytes: int
    embedding_bytes: int
    kv_cache_bytes: int
    """Peak of the blocks in use."""
    kv_cache_reserved_bytes: int
    """All blocks; memory is touched only when they are written."""
    persistent_buffers_bytes: int
    """Messages of a decode step, with two buffers for each, as the device has them."""
    unpacked_weights_bytes: int
    """Circular buffer, or the scratch array if there is no prefetcher."""
    collectives_bytes: int
    """Host memory per chip in which collectives send and receive, in both modes: three slots per
    axis. It depends on how chips are connected."""
    process_bytes: int
    """Proportional set size of the whole process, including Python and libraries."""


def proportional_set_bytes() -> int:
    """Return this process's proportional set size; 0 if unknown."""
    try:
        with open("/proc/self/smaps_rollup", encoding="ascii") as lines:
            for line in lines:
                if line.startswith("Pss:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0
