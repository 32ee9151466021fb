"""Where the compute thread gets its weights from; here: unpacked at the moment they are used."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from galaxy_mpi.arrays import F32
from galaxy_mpi.dtypes import PackedTensor

__all__ = ["DirectWeights", "PrefetchStats", "WeightId", "WeightSource"]


class WeightId(NamedTuple):
    """A matmul weight of this chip."""

    layer: int
    """Layer number, or -1 for the language-model head."""
    name: str

    def __str__(self) -> str:
        return f"layer {self.layer} {self.name}" if self.layer >= 0 else self.name


@dataclass
class PrefetchStats:
    """What a weight source counted since it was made; seconds of host time."""

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


class WeightSource(Protocol):
    """Delivers unpacked weights, in the order of the model."""

    def begin_step(self) -> None:
        """Get ready for one pass through all layers."""

    def take(self, weight: WeightId) -> F32:
        """Return a weight of a layer, (in, out): valid until the next call of this object."""

    def read(self, weight: WeightId) -> F32:
        """Return a weight that is not prefetched (the head), with the same validity."""

    def end_step(self) -> None:
        """End the pass; all weights have been taken."""

    def stats(self) -> PrefetchStats:
        """Return the counts so far."""

    def close(self) -> None:
        """Release threads and storage."""


class DirectWeights:
    """Unpacks a weight when it is asked for, into one scratch array.

    Parameters
    ----------
    tensors : mapping of WeightId to PackedTensor
        This chip's weights.
    """

    def __init__(self, tensors: Mapping[WeightId, PackedTensor]) -> None:
        self._tensors = tensors
        largest = max((t.n_values for t in tensors.values()), default=0)
        self._scratch = np.empty(largest, np.float32)

    def begin_step(self) -> None:
        """Do nothing."""

    def take(self, weight: WeightId) -> F32:
        """Unpack the weight over the one taken before."""
        tensor = self._tensors[weight]
        return tensor.unpack(self._scratch[: tensor.n_values].reshape(tensor.shape))

    def read(self, weight: WeightId) -> F32:
        """Do as `take` does."""
        return self.take(weight)

    def end_step(self) -> None:
        """Do nothing."""

    def stats(self) -> PrefetchStats:
        """Return zero counts and the size of the scratch array."""
        return PrefetchStats(peak_bytes=self._scratch.nbytes, capacity_bytes=self._scratch.nbytes)

    def close(self) -> None:
        """Do nothing."""
