"""Seconds of an op on one chip, from its sizes and the constants of the machine.

Physical: bytes over bandwidth, arithmetic over the peak of the cores that do it, hops, launches.
What was fitted is a constant of the profile and names what to; nothing here looks up an answer.
Collectives have two parts: what each chip takes by itself, and hops between chips, which
`galaxy_mpi.timing.mesh_clock` adds.
"""

from dataclasses import dataclass

from galaxy_mpi.dtypes import TILE, padded
from galaxy_mpi.kernels import Fidelity
from galaxy_mpi.timing.machine import Machine

__all__ = ["Costs"]

_DRAM_BANKS_TILES = 24 * TILE
"""Weights are padded to whole tiles on each of the 24 ring cores."""

_NORM_CORES = 16
"""Cores of the fused norm (tt-metal, model_config.py, ``LAYERNORM`` grid)."""


@dataclass(frozen=True)
class Costs:
    """Times of ops on one chip of a machine."""

    machine: Machine
    norm_cores = _NORM_CORES

    def gap_s(self, mode: str) -> float:
        """Seconds between two ops: of a recorded trace in decode; in prefill the host's."""
        return self.machine.op_gap_s if mode == "decode" else self.machine.prefill_op_s

    def flops_per_core_s(self, fidelity: Fidelity) -> float:
        """Flops a second of a core at a fidelity."""
        return {
            Fidelity.LOFI: self.machine.lofi_flops_per_core_s,
            Fidelity.HIFI2: self.machine.hifi2_flops_per_core_s,
            Fidelity.HIFI4: self.machine.hifi4_flops_per_core_s,
        }[fidelity]

    def ring_matmul_s(self, rows: int, k: int, n: int, flops_per_core_s: float) -> float:
        """Seconds of a matmul on the ring cores, whose weight is in the circular buffer.

        The inner dim goes round the ring of cores in whole tiles each, the outer one is cut over
        them; both are padded to that, and the padding is computed.
        """
        cores = int(self.machine.ring_cores)
        inner, outer = padded(k, cores * TILE), padded(n, cores * TILE)
        arithmetic_s = 2 * padded(rows) * inner * outer / (cores * flops_per_core_s)
        return self.machine.launch_s + cores * self.machine.ring_core_hop_s + arithmetic_s

    def weight_bytes(self, k: int, n: int, tile_bytes: int) -> int:
        """Bytes of a prefetched weight in DRAM, padded to the ring cores."""
        return padded(k) // TILE * (padded(n, _DRAM_BANKS_TILES) // TILE) * tile_bytes

    def dram_matmul_s(
        self, rows: int, k: int, n: int, tile_bytes: int, flops_per_core_s: float
    ) -> float:
        """Seconds of a matmul that reads its weight from DRAM: reading or arithmetic."""
        m = self.machine
        reading_s = padded(k) * padded(n) // TILE**2 * tile_bytes / m.dram_bytes_per_s
        peak = m.worker_cores * flops_per_core_s
        return m.launch_s + max(reading_s, 2 * padded(rows) * k * n / peak)

    def vector_s(self, elements: float, cores: float, passes: float) -> float:
        """Seconds of elementwise passes over tiles that are in L1."""
        return elements / cores * passes / self.machine.vector_elements_per_core_s

    def norm_s(self, rows: int, width: int, *, passes: int) -> float:
        """Seconds of the fused norm beside its gather: one hand-over between its parts."""
        return self.machine.stage_s + self.norm_part_s(rows, width, passes=passes)

    def norm_part_s(self, rows: int, width: int, *, passes: int) -> float:
        """Seconds of an op of its own that makes a part of the norm, on the same cores."""
        elements = padded(rows) * padded(width)
        return self.machine.launch_s + self.vector_s(elements, _NORM_CORES, passes)

    def elementwise_s(self, elements: float, cores: float, passes: float) -> float:
        """Seconds of an op of its own that makes ``passes`` over its elements."""
        return self.machine.launch_s + self.vector_s(elements, cores, passes)

    def update_cache_s(self) -> float:
        """Seconds of writing one position of each user: tiles are read, changed, written."""
        return self.machine.launch_s + 2 * self.machine.dram_round_trip_s

    def attention_s(
        self,
        users: int,
        heads: int,
        kv_heads: int,
        head_dim: int,
        position: int,
        tile_bytes: int,
        flops_per_core_s: float,
    ) -> float:
        """Seconds of decode attention: each user has its share of the cores.

        Scores of all heads of a kv head are one row of tiles, padded to 32 rows. The slower of
        reading keys and values, multiplying, and softmax; then the cores of a user combine.
        """
        m = self.machine
        positions = padded(position + 1)
        cores = max(1, int(m.worker_cores) // max(1, users * kv_heads))
        n_tiles = users * kv_heads * 2 * positions * padded(head_dim) // TILE**2
        reading_s = n_tiles * tile_bytes / m.dram_bytes_per_s
        rows = padded(-(-heads // kv_heads))
        arithmetic_s = 4 * rows * positions * head_dim / (cores * flops_per_core_s)
        softmax_s = self.vector_s(rows * positions, cores, m.softmax_passes)
        combine_s = max(1, cores.bit_length()) * m.stage_s
        return m.launch_s + max(reading_s, arithmetic_s + softmax_s) + combine_s

    def add_s(self, elements: float) -> float:
        """Seconds of adding so many gathered values."""
        return elements / (self.machine.worker_cores * self.machine.add_elements_per_core_s)

    def wire_s(self, size: int, block_bytes: float, links: float) -> float:
        """Seconds in which the busiest link of a group passes an all-gather's blocks.

        On a ring half of the blocks go each way; on a line those at its end carry all but one.
        A reduce-scatter of such chunks has the same load.
        """
        blocks = (size - 1) / 2 if self.machine.topology == "ring" else size - 1
        return blocks * block_bytes / (links * self.machine.link_bytes_per_s)
