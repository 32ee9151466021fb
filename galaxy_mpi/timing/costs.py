"""Seconds of an op on one chip, from its sizes and the constants of the machine.

The terms are physical: bytes over bandwidth, arithmetic over the peak of the cores used, hops,
launches. Fitted values are constants of the profile, which names the times they were fitted to. A
collective has two parts: each chip's own time, and hops between chips, which
`galaxy_mpi.timing.mesh_clock` adds. Attention is in `galaxy_mpi.timing.attention_costs`.
"""

from dataclasses import dataclass

from galaxy_mpi.dtypes import TILE, padded
from galaxy_mpi.kernels import Fidelity
from galaxy_mpi.program.spent import Bound, Spent
from galaxy_mpi.timing.attention_costs import decode_attention_s, prefill_attention_s
from galaxy_mpi.timing.cores import (
    fused_norm_cores,
    multicast_blocks,
    norm_cores,
    ring_sizes,
    whole_hidden,
)
from galaxy_mpi.timing.machine import Machine

__all__ = ["Costs"]

_DRAM_BANKS_TILES = 24 * TILE
"""Weights are padded to whole tiles on each of the 24 ring cores."""

_PACKET_BYTES = 4096
"""Largest payload of a fabric packet; tensor pages are never split."""

ROUND_TRIPS = 2
"""Accesses of a cache tile per position: it is read, modified and written."""


@dataclass(frozen=True)
class Costs:
    """Times of ops on one chip of a machine."""

    machine: Machine

    attention_s = decode_attention_s
    prefill_attention_s = prefill_attention_s

    def gap_s(self, mode: str) -> float:
        """Seconds between two ops of a recorded trace."""
        return self.machine.op_gap_s

    def issue_s(self, mode: str) -> float:
        """Seconds for the host to issue an op, because prefill is not a recorded trace."""
        return 0.0 if mode == "decode" else self.machine.prefill_op_s

    def flops_per_core_s(self, fidelity: Fidelity) -> float:
        """Flops per second of a core at a fidelity."""
        return {
            Fidelity.LOFI: self.machine.lofi_flops_per_core_s,
            Fidelity.HIFI2: self.machine.hifi2_flops_per_core_s,
            Fidelity.HIFI4: self.machine.hifi4_flops_per_core_s,
        }[fidelity]

    # --- matmuls of decode

    def ring_matmul_s(
        self, rows: int, k: int, n: int, flops_per_core_s: float, read_tile_bytes: int = 0
    ) -> Spent:
        """Seconds of a matmul on the ring cores.

        The inner dim circulates through the ring of cores in whole tiles, the outer one is split
        over the cores. Both are padded accordingly, and the padding is computed too. A ring has
        equally many cores for each of 12 DRAM banks; cores that would only add padding stay idle.

        Parameters
        ----------
        read_tile_bytes : int
            Bytes per tile of a weight that is read from DRAM meanwhile; 0 if it is in the circular
            buffer.
        """
        m = self.machine
        ring_s, arithmetic_s, cores = min(
            self._around_ring(rows, k, n, flops_per_core_s, cores)
            for cores in ring_sizes(int(m.ring_cores))
        )
        n_bytes = self.weight_bytes(k, n, read_tile_bytes)
        terms = {Bound.FLOPS: ring_s, Bound.DRAM: n_bytes / m.dram_bytes_per_s}
        flops = self._lofi_flops(arithmetic_s * cores)
        return Spent.longest(m.launch_s, terms, dram_bytes=n_bytes, flops=flops)

    def _around_ring(
        self, rows: int, k: int, n: int, flops_per_core_s: float, cores: int
    ) -> tuple[float, float, int]:
        """Return seconds on so many cores, seconds of arithmetic, and the cores."""
        inner, outer = padded(k, cores * TILE), padded(n, cores * TILE)
        arithmetic_s = 2 * padded(rows) * inner * outer / (cores * flops_per_core_s)
        return cores * self.machine.ring_core_hop_s + arithmetic_s, arithmetic_s, cores

    def weight_bytes(self, k: int, n: int, tile_bytes: int) -> int:
        """Bytes of a prefetched weight in DRAM, padded to the ring cores."""
        return padded(k) // TILE * (padded(n, _DRAM_BANKS_TILES) // TILE) * tile_bytes

    def bank_matmul_s(
        self, rows: int, k: int, n: int, tile_bytes: int, flops_per_core_s: float, blocks: int
    ) -> Spent:
        """Seconds of a matmul on the cores next to the DRAM banks, each reading its own bank.

        The activation arrives in ``blocks``, each multicast by the core that holds it when the
        others are ready; this overlaps with reading and multiplying. Weights are padded to a
        tile on each core (tt-metal, model_config.py, ``create_dram_sharded_mem_config``).
        """
        m, cores = self.machine, int(self.machine.bank_cores)
        columns = padded(n, cores * TILE)
        n_bytes = padded(k) // TILE * (columns // TILE) * tile_bytes
        arithmetic_s = 2 * padded(rows) * padded(k) * columns / (cores * flops_per_core_s)
        terms = {
            Bound.DRAM: n_bytes / m.dram_bytes_per_s,
            Bound.FLOPS: arithmetic_s,
            Bound.LATENCY: blocks * m.multicast_block_s,
        }
        flops = self._lofi_flops(arithmetic_s * cores)
        return Spent.longest(m.launch_s, terms, dram_bytes=n_bytes, flops=flops)

    def head_matmul_s(
        self, rows: int, k: int, n: int, tile_bytes: int, flops_per_core_s: float
    ) -> Spent:
        """Seconds of the language-model head, whose weight all worker cores read from DRAM."""
        m = self.machine
        n_bytes = padded(k) // TILE * (padded(n) // TILE) * tile_bytes
        arithmetic_s = 2 * padded(rows) * padded(k) * padded(n) / (
            m.worker_cores * flops_per_core_s
        )  # fmt: skip
        terms = {Bound.DRAM: n_bytes / m.dram_bytes_per_s, Bound.FLOPS: arithmetic_s}
        flops = self._lofi_flops(arithmetic_s * m.worker_cores)
        return Spent.longest(m.launch_s, terms, dram_bytes=n_bytes, flops=flops)

    def multicast_blocks(self, k: int, n: int) -> int:
        """Blocks of an activation: the number of cores that hold it, at most 64."""
        return multicast_blocks(k, n)

    def whole_hidden(self, dim: int, hidden: int) -> int:
        """Feed-forward width of a chip with the generic system's padding."""
        return whole_hidden(dim, hidden)

    # --- vectors

    def vector_s(self, elements: float, cores: float, passes: float) -> float:
        """Seconds of elementwise passes over tiles that are in L1."""
        return elements / cores * passes / self.machine.vector_elements_per_core_s

    def norm_s(self, rows: int, width: int, *, passes: int) -> Spent:
        """Seconds of the fused norm without its gather, including one hand-over between parts."""
        elements, m = padded(rows) * padded(width), self.machine
        seconds = self.vector_s(elements, self.fused_norm_cores(width), passes)
        return Spent.longest(m.stage_s + m.launch_s, {Bound.VECTOR: seconds})

    def fused_norm_cores(self, width: int) -> float:
        """Cores of the Galaxy's norm: the largest divisor of the tiles, at most 16."""
        return fused_norm_cores(width)

    def norm_part_s(self, rows: int, width: int, *, passes: int) -> Spent:
        """Seconds of a separate op that computes a norm or a part of one."""
        return self.elementwise_s(padded(rows) * padded(width), self.norm_cores(width), passes)

    def norm_cores(self, width: int) -> int:
        """Cores of a separate norm: the divisor of the tiles that is closest to 32."""
        return norm_cores(width)

    def elementwise_s(self, elements: float, cores: float, passes: float) -> Spent:
        """Seconds of a separate op that makes ``passes`` over its elements."""
        terms = {Bound.VECTOR: self.vector_s(elements, cores, passes)}
        return Spent.longest(self.machine.launch_s, terms)

    def copy_s(self, elements: float, cores: float) -> Spent:
        """Seconds of a copy to other cores or another memory layout."""
        return self.elementwise_s(elements, cores, 1)

    def update_cache_s(self, kv_heads: int) -> Spent:
        """Seconds to write one position per user: tiles are read, modified, written.

        A core handles one user, head by head; the next head is read while the last is written.
        """
        m = self.machine
        return Spent(m.launch_s + (ROUND_TRIPS + kv_heads - 1) * m.dram_round_trip_s)

    # --- prefill

    def streamed_s(self, elements: float, passes: float, n_bytes: float) -> Spent:
        """Seconds of a prefill op: passes on all cores, tensors through DRAM.

        Parameters
        ----------
        n_bytes : float
            Read and written, by all tensors.
        """
        m = self.machine
        terms = {
            Bound.VECTOR: self.vector_s(elements, m.prefill_cores, passes),
            Bound.DRAM: n_bytes / m.streamed_bytes_per_s,
        }
        return Spent.longest(m.launch_s, terms, dram_bytes=n_bytes)

    def prefill_matmul_s(
        self,
        rows: int,
        k: int,
        n: int,
        tile_bytes: int,
        flops_per_core_s: float,
        activation_bytes: float,
    ) -> Spent:
        """Seconds of a matmul of many rows: reading the weight, or multiplying on a grid of cores.

        A row of the grid takes rows of tiles, so a small matrix uses few rows of the grid.

        Parameters
        ----------
        activation_bytes : float
            Read and written, without the weight.
        """
        m = self.machine
        grid_rows = m.prefill_grid_rows
        share = min(1.0, padded(rows) / TILE / grid_rows)
        peak = m.prefill_cores * share * flops_per_core_s * m.prefill_efficiency
        arithmetic_s = 2 * padded(rows) * padded(k) * padded(n) / peak
        weight_bytes = padded(k) // TILE * (padded(n) // TILE) * tile_bytes
        reading_s = weight_bytes / m.prefill_weight_bytes_per_s
        streamed_s = activation_bytes / m.streamed_bytes_per_s
        terms = {Bound.FLOPS: arithmetic_s, Bound.DRAM: max(reading_s, streamed_s)}
        n_bytes = weight_bytes + activation_bytes
        flops = self._lofi_flops(2 * padded(rows) * padded(k) * padded(n) / flops_per_core_s)
        return Spent.longest(m.launch_s, terms, dram_bytes=n_bytes, flops=flops)

    # --- collectives

    def add_s(self, elements: float) -> float:
        """Seconds to add so many gathered values."""
        return elements / (self.machine.worker_cores * self.machine.add_elements_per_core_s)

    def link_s(self, n_bytes: float, page_bytes: float) -> float:
        """Seconds for a link to pass bytes in pages, with whole pages per packet."""
        m = self.machine
        whole_s = _PACKET_BYTES / m.link_bytes_per_s
        byte_s = (whole_s - m.link_packet_s) / _PACKET_BYTES
        pages = max(1, int(_PACKET_BYTES // page_bytes))
        packet = min(float(_PACKET_BYTES), pages * page_bytes)
        return n_bytes / packet * (m.link_packet_s + packet * byte_s)

    def wire_blocks(self, size: int) -> float:
        """Blocks that the busiest link of an all-gather passes.

        On a ring half of the blocks go each way; on a line the end links carry all but one. A
        reduce-scatter of chunks has the same load.
        """
        return (size - 1) / 2 if self.machine.topology == "ring" else size - 1

    def wire_s(
        self,
        size: int,
        block_bytes: float,
        links: float,
        page_bytes: float = _PACKET_BYTES,
        worker_bytes_per_s: float | None = None,
    ) -> float:
        """Seconds for the busiest link of a group to pass an all-gather's blocks.

        Parameters
        ----------
        worker_bytes_per_s : float, optional
            Of the cores that feed each link from DRAM, which may be slower than the link.
        """
        n_bytes = self.wire_blocks(size) * block_bytes / links
        link_s = self.link_s(n_bytes, page_bytes)
        return link_s if worker_bytes_per_s is None else max(link_s, n_bytes / worker_bytes_per_s)

    def _lofi_flops(self, core_s: float) -> float:
        """Return core-seconds of multiplication in terms of LoFi."""
        return core_s * self.machine.lofi_flops_per_core_s
