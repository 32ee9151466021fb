"""Seconds of single ops, from their sizes and the constants of the machine."""

from dataclasses import replace

import numpy as np
import pytest

from galaxy_mpi.program import Bound
from galaxy_mpi.timing import Machine
from galaxy_mpi.timing.costs import Costs

GALAXY = Machine.load("wormhole_galaxy_6u")


COSTS = Costs(GALAXY)


BFP8, BFP4 = 1088, 576


def test_bytes_of_a_layer_are_those_of_the_published_layout():
    """Llama-70B on 8x4, padded to the banks: 3.34 + 2.51 + 4.42 + 4.42 + 8.77 MB."""
    weights = [
        (2048, 1280, BFP8, 3.34),
        (1024, 2048, BFP8, 2.51),
        (2048, 3584, BFP4, 4.42),
        (2048, 3584, BFP4, 4.42),
        (3584, 2048, BFP8, 8.77),
    ]
    for k, n, tile_bytes, megabytes in weights:
        assert COSTS.weight_bytes(k, n, tile_bytes) / 1e6 == pytest.approx(megabytes, abs=0.006)


def test_a_matmul_on_the_ring_pays_for_its_padding():
    """1024 rows of a weight are 32 tiles: 24 cores take two each, as if there were 48."""
    peak = 2e12
    arithmetic_s = 2 * 32 * (48 * 32) * (72 * 32) / (24 * peak)
    overhead_s = GALAXY.launch_s + 24 * GALAXY.ring_core_hop_s
    assert COSTS.ring_matmul_s(32, 1024, 2048, peak) == pytest.approx(overhead_s + arithmetic_s)
    assert COSTS.ring_matmul_s(1, 1024, 2048, peak) == COSTS.ring_matmul_s(32, 1536, 2304, peak)


def test_a_matmul_from_dram_takes_its_bytes_or_its_arithmetic_or_its_multicasts():
    reading_s = 2048 * 16512 / 1024 * BFP8 / GALAXY.dram_bytes_per_s  # padded to 12 banks
    few = COSTS.bank_matmul_s(32, 2048, 16384, BFP8, 2e12, 64)
    assert few == pytest.approx(GALAXY.launch_s + reading_s)
    assert (few.bound, few.dram_bytes) == (Bound.DRAM, 2048 * 16512 / 1024 * BFP8)
    many = COSTS.bank_matmul_s(4096, 2048, 16384, BFP8, 2e12, 64)
    assert many == pytest.approx(GALAXY.launch_s + 2 * 4096 * 2048 * 16512 / (12 * 2e12))
    assert many.bound is Bound.FLOPS
    small = COSTS.bank_matmul_s(32, 2048, 384, BFP8, 2e12, 64)
    assert small == pytest.approx(GALAXY.launch_s + 64 * GALAXY.multicast_block_s)
    head = COSTS.head_matmul_s(32, 2048, 16384, BFP8, 2e12)
    assert head == pytest.approx(
        GALAXY.launch_s + 2048 * 16384 / 1024 * BFP8 / GALAXY.dram_bytes_per_s
    )


def test_a_matmul_on_the_ring_is_never_faster_without_the_prefetcher():
    for k, n in ((512, 128), (2048, 3584), (3584, 2048)):
        fed = COSTS.ring_matmul_s(32, k, n, 2e12)
        assert COSTS.ring_matmul_s(32, k, n, 2e12, BFP8) >= fed


def test_the_busiest_wire_of_rings_and_lines():
    """Counted block by block: on a ring each goes the shorter way (half and half at the middle)."""
    for size in (2, 3, 4, 8):
        ring = np.zeros((size, 2))
        line = np.zeros((size, 2))
        for source in range(size):
            for target in range(size):
                ahead = (target - source) % size
                ways = [(0, ahead)] if 2 * ahead < size else [(1, size - ahead)]
                share = 1.0
                if 2 * ahead == size:
                    ways, share = [(0, ahead), (1, ahead)], 0.5
                for way, steps in ways:
                    if steps:
                        last = (target - (1 if way == 0 else -1)) % size
                        ring[last, way] += share  # what crosses the wire into the target
                if source != target:
                    line[target, int(source > target)] += 1
        wire_s = 1 / (4 * GALAXY.link_bytes_per_s)
        assert COSTS.wire_s(size, 1, 4) == pytest.approx(ring.sum(axis=1).max() / 2 * wire_s)
    slow = Costs(replace(GALAXY, topology="line"))
    assert slow.wire_s(4, 1, 4) == pytest.approx(3 * wire_s)


def attention_s(users, position, *, kv_heads=1, tile_bytes=BFP8, cores=32, slots=8):
    shape = (users, 8, kv_heads, 128, position, tile_bytes, 2e12)
    return COSTS.attention_s(*shape, cores=cores, slots=slots, most_tiles=8, passes=0.4)


ATTENTION_S = GALAXY.launch_s + GALAXY.stage_s + GALAXY.dram_round_trip_s


"""Before attention reads the cache: positions and page table are read first."""


def test_attention_takes_chunks_of_up_to_256_positions():
    """Four cores a user: one chunk, two on two cores, then five of 256 on four cores."""
    m = GALAXY
    chunk_s = 2 * 8 * 4 * BFP8 / m.attention_bytes_per_core_s  # keys and values of 256 positions
    for position, in_turn, merges in ((255, 1, 0), (256, 1, 1), (1023, 1, 2), (1024, 2, 2)):
        expected_s = ATTENTION_S + merges * m.attention_merge_s + in_turn * chunk_s
        assert attention_s(1, position) == pytest.approx(expected_s), position
    assert attention_s(1, 127) == attention_s(1, 96) < attention_s(1, 128)


def test_attention_of_many_users_is_bound_by_what_one_kv_head_reads():
    """Two of a user's four cores read as fast as DRAM gives, and merge once."""
    many = attention_s(8, 131_071)
    n_bytes = 8 * 131_072 * 2 * 128 * BFP8 / 1024
    rate = GALAXY.dram_bytes_per_s * GALAXY.attention_dram_share
    assert many == pytest.approx(n_bytes / rate + ATTENTION_S + GALAXY.attention_merge_s)
    assert many.bound is Bound.DRAM
    assert attention_s(8, 4095, tile_bytes=BFP4) < attention_s(8, 4095)
    assert attention_s(8, 4095) < attention_s(8, 4095, tile_bytes=2048)


def prefill_attention_s(queries, pairs, **changes):
    kinds = {"chunk": 64, "passes": 0.0, "tile_bytes": BFP8} | changes
    return COSTS.prefill_attention_s(pairs, queries, 8, 128, 1e12, 0.0, **kinds)


def test_each_chunk_of_queries_reads_all_keys_and_values_it_sees_again():
    """8,192 queries behind 57,344 keys, by 64: 128 chunks of each of 8 heads, 272 bytes a key."""
    seen = 8192 * 57_344
    short = prefill_attention_s(8192, seen)
    read = 8 * 128 * 57_344 * 2 * 128 * BFP8 / 1024
    assert short == pytest.approx(GALAXY.launch_s + read / GALAXY.chunk_read_bytes_per_s)
    assert short.bound is Bound.DRAM
    assert prefill_attention_s(8192, seen, chunk=256).bound is Bound.FLOPS


def test_whole_chunks_of_queries_are_cut_over_the_cores():
    """On 70 cores, 8 heads of 8 chunks take a turn, 8 heads of 9 take two."""
    one, two = (
        prefill_attention_s(64 * n, 1e6 * n, chunk=64, passes=50.0) - GALAXY.launch_s
        for n in (8, 9)
    )
    assert two == pytest.approx(2 * one)


def test_a_cache_write_takes_one_kv_head_after_the_other():
    first, eighth = COSTS.update_cache_s(1), COSTS.update_cache_s(8)
    assert first == pytest.approx(GALAXY.launch_s + 2 * GALAXY.dram_round_trip_s)
    assert eighth - first == pytest.approx(7 * GALAXY.dram_round_trip_s)


def test_flops_count_the_padding_in_terms_of_lofi():
    """As the machine's peak is counted: HiFi2 takes twice the time, so its flops count twice."""
    lofi, hifi2 = GALAXY.lofi_flops_per_core_s, GALAXY.hifi2_flops_per_core_s
    assert lofi == 2 * hifi2
    ring = 2 * 32 * (48 * 32) * (72 * 32)  # 24 cores: 32 and 64 tiles become 48 and 72
    assert COSTS.ring_matmul_s(32, 1024, 2048, lofi).flops == pytest.approx(ring)
    assert COSTS.ring_matmul_s(32, 1024, 2048, hifi2).flops == pytest.approx(2 * ring)
    bank = 2 * 32 * 2048 * 16512
    assert COSTS.bank_matmul_s(32, 2048, 16384, BFP8, hifi2, 64).flops == pytest.approx(2 * bank)
    head = 2 * 32 * 2048 * 16384
    assert COSTS.head_matmul_s(1, 2048, 16384, BFP8, hifi2).flops == pytest.approx(2 * head)
    wide = COSTS.prefill_matmul_s(128, 2048, 1280, BFP8, hifi2, 0)
    assert wide.flops == pytest.approx(2 * 2 * 128 * 2048 * 1280)


def test_a_matmul_on_the_ring_reads_its_weight_meanwhile():
    n_bytes = COSTS.weight_bytes(2048, 3584, BFP8)
    read = COSTS.ring_matmul_s(32, 2048, 3584, 1e15, BFP8)
    assert read == pytest.approx(GALAXY.launch_s + n_bytes / GALAXY.dram_bytes_per_s)
    assert (read.bound, read.dram_bytes) == (Bound.DRAM, n_bytes)
    assert COSTS.ring_matmul_s(32, 2048, 3584, 1e15).dram_bytes == 0


def test_a_head_of_many_rows_takes_its_arithmetic():
    many = COSTS.head_matmul_s(4096, 2048, 16384, BFP8, 2e12)
    arithmetic_s = 2 * 4096 * 2048 * 16384 / (GALAXY.worker_cores * 2e12)
    assert many == pytest.approx(GALAXY.launch_s + arithmetic_s)
    assert (many.bound, many.dram_bytes) == (Bound.FLOPS, 2048 * 16384 / 1024 * BFP8)


def test_a_prefill_matmul_takes_rows_of_the_grid_its_weight_or_its_tensors():
    peak, k, n = 2e12, 2048, 3584

    def matmul_s(rows, activation_bytes=0.0, peak=peak):
        return COSTS.prefill_matmul_s(rows, k, n, BFP8, peak, activation_bytes)

    # 64 rows are 2 rows of tiles: 2 of the 10 rows of the grid.
    cores = GALAXY.prefill_cores * 2 / GALAXY.prefill_grid_rows
    few_s = 2 * 64 * k * n / (cores * 1e9 * GALAXY.prefill_efficiency)
    assert matmul_s(64, peak=1e9) == pytest.approx(GALAXY.launch_s + few_s)
    full_s = 2 * 2048 * k * n / (GALAXY.prefill_cores * peak * GALAXY.prefill_efficiency)
    assert matmul_s(2048) == pytest.approx(GALAXY.launch_s + full_s)
    weight_bytes = k * n / 1024 * BFP8
    read = matmul_s(2048, peak=1e18)
    reading_s = weight_bytes / GALAXY.prefill_weight_bytes_per_s
    assert read == pytest.approx(GALAXY.launch_s + reading_s)
    assert (read.bound, read.dram_bytes) == (Bound.DRAM, weight_bytes)
    streamed = matmul_s(2048, 1e9, peak=1e18)
    assert streamed == pytest.approx(GALAXY.launch_s + 1e9 / GALAXY.streamed_bytes_per_s)
    assert streamed.dram_bytes == weight_bytes + 1e9


def test_passes_over_elements_are_shared_by_the_cores():
    rate = GALAXY.vector_elements_per_core_s
    norm = COSTS.norm_s(8, 2048, passes=3)  # 32 rows of 64 tiles on 16 cores
    assert norm == pytest.approx(GALAXY.stage_s + GALAXY.launch_s + 32 * 2048 / 16 * 3 / rate)
    part = COSTS.norm_part_s(8, 2048, passes=3)  # on 32 cores
    assert part == pytest.approx(GALAXY.launch_s + 32 * 2048 / 32 * 3 / rate)
    assert COSTS.copy_s(4096, 8) == pytest.approx(GALAXY.launch_s + 4096 / 8 / rate)
    wide = COSTS.streamed_s(1e9, 2, 1e6)
    assert wide == pytest.approx(GALAXY.launch_s + 1e9 / GALAXY.prefill_cores * 2 / rate)
    assert (wide.bound, wide.dram_bytes) == (Bound.VECTOR, 1e6)
    bytes_s = COSTS.streamed_s(1, 1, 1e9) - GALAXY.launch_s
    assert bytes_s == pytest.approx(1e9 / GALAXY.streamed_bytes_per_s)


def test_a_packet_holds_whole_pages_and_has_a_cost_of_its_own():
    """Full packets of 4,096 bytes travel at the link's rate; with 3 pages of 1,088, 3,264 go."""
    full_s = 4096 / GALAXY.link_bytes_per_s
    assert COSTS.link_s(1e6, 4096) == pytest.approx(1e6 / GALAXY.link_bytes_per_s)
    byte_s = (full_s - GALAXY.link_packet_s) / 4096
    packet_s = GALAXY.link_packet_s + 3 * 1088 * byte_s
    assert COSTS.link_s(1e6, 1088) == pytest.approx(1e6 / 3264 * packet_s)
    assert COSTS.link_s(1e6, 8192) == pytest.approx(1e6 / GALAXY.link_bytes_per_s)
    assert COSTS.link_s(1e6, 1088) > COSTS.link_s(1e6, 4096)
