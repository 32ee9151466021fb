"""Host memory of a rank, by kind, in bytes."""

from dataclasses import dataclass

__all__ = ["RankMemory", "proportional_set_bytes"]


@dataclass(frozen=True)
class RankMemory:
    """What one rank holds for its chip."""

    weights_bytes: int
    embedding_bytes: int
    kv_cache_bytes: int
    """Of the blocks that users held at once, at most."""
    kv_cache_reserved_bytes: int
    """Of all blocks; memory is touched only as they are written."""
    persistent_buffers_bytes: int
    unpacked_weights_bytes: int
    """Circular buffer, or the scratch array without prefetcher."""
    process_bytes: int
    """Proportional set size of the whole process: Python and libraries included."""


def proportional_set_bytes() -> int:
    """Return this process's proportional set size; 0 where the system does not tell."""
    try:
        with open("/proc/self/smaps_rollup", encoding="ascii") as lines:
            for line in lines:
                if line.startswith("Pss:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0
