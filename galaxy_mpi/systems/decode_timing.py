"""What the decode steps of all systems are charged alike, and how their weights come.

The page table has one user a column, the longest. Names of ops are those of the published targets
(galaxy_mpi/device/published/galaxy_6u.json) where there are any.
"""

from typing import Any

import numpy as np

from galaxy_mpi.device import Charged
from galaxy_mpi.prefetch import WeightId
from galaxy_mpi.systems.kv_cache import KVCache, PageTable
from galaxy_mpi.systems.timing import Emulated, TimingProgram

__all__ = ["DecodeTiming"]


class DecodeTiming(TimingProgram):
    """Charges the ops of a decode step; the systems' own add the rest.

    Parameters
    ----------
    clock, emulated
        As in `TimingProgram`.
    prefetch : bool
        Whether weights come through the circular buffer, or are read from DRAM by the matmul.
    """

    mode = "decode"

    def __init__(self, clock: Charged, emulated: Emulated, *, prefetch: bool) -> None:
        super().__init__(clock, emulated)
        self._prefetch = prefetch
        self.weights = self
        self._norms = 0

    def begin_step(self) -> None:
        """Start the prefetcher."""
        self._norms = 0
        self.clock.begin_step()

    def end_step(self) -> None:
        """Do nothing: the prefetcher has delivered everything."""

    def norm_heads(self, q: Any, k: Any, q_gain: Any, k_gain: Any) -> tuple[Any, Any]:
        """Op 3b of Qwen3: two ops, each head of a user in a row of tiles of its own."""
        sizes = self.sizes
        for _ in ("q", "k"):
            elements = sizes.users_each * 32 * sizes.head_dim
            self._elementwise("norm_heads", elements, self._machine.worker_cores, 4)
        return None, None

    def attention(self, q: Any, cache: KVCache, table: PageTable) -> Any:
        """Op 6: in each column as long as its longest user takes."""
        sizes = self.sizes
        seconds = [
            self.costs.attention_s(
                sizes.users_each,
                sizes.heads,
                sizes.kv_heads,
                sizes.head_dim,
                max(int(position), 0),
                self._precision.kv_cache.tile_bytes,
                self._peak("sdpa"),
            )
            for position in table.positions_B
        ]
        self.clock.op("attention", np.array(seconds), self._machine.worker_cores)

    def _norm_name(self, gain: Any) -> str:
        """Return the name of the norm whose turn it is."""
        names = ("rms_norm_attention", "rms_norm_mlp")
        name = "final_norm" if gain == "norm" else names[self._norms % 2]
        self._norms += 1
        return name

    def _choose(self) -> None:
        """Sample, and go on to the next step."""
        self._sample()
        self.clock.compute("sampling_gap", self._machine.sampling_gap_s, 0)
        self.clock.compute("plus_one_gap", self._machine.plus_one_gap_s, 0)

    def _matmul(self, name: str, weight: WeightId) -> None:
        self._take(weight)
        self.clock.op(name, self._matmul_s(weight), self._matmul_cores)
        self._consumed()

    @property
    def _matmul_cores(self) -> float:
        return self._machine.ring_cores if self._prefetch else self._machine.worker_cores

    def _matmul_s(self, weight: WeightId) -> float:
        k, n = self.sizes.matrices[weight.name]
        users, peak = self.sizes.users, self._peak(weight.name)
        if self._prefetch:
            return self.costs.ring_matmul_s(users, k, n, peak)
        tile_bytes = self._precision.weight(weight.name).tile_bytes
        return self.costs.dram_matmul_s(users, k, n, tile_bytes, peak)

    def _take(self, weight: WeightId) -> None:
        if self._prefetch:
            tile_bytes = self._precision.weight(weight.name).tile_bytes
            shape = self.sizes.matrices[weight.name]
            self.clock.take(self.costs.weight_bytes(*shape, tile_bytes))

    def _consumed(self) -> None:
        if self._prefetch:
            self.clock.consumed()
