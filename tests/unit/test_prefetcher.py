import time

import numpy as np
import pytest
from galaxy_mpi.prefetch.prefetcher import DEFAULT_BUFFER_BYTES, buffer_bytes

from galaxy_mpi.dtypes import BFP4, BFP8, PackedTensor
from galaxy_mpi.errors import ConfigError, PrefetchError
from galaxy_mpi.prefetch import DirectWeights, WeightId, WeightPrefetcher

SCHEDULE = [
    WeightId(layer, name) for layer in range(3) for name in ("wqkv", "wo", "w1", "w3", "w2")
]


def tensors() -> dict[WeightId, PackedTensor]:
    rng = np.random.default_rng(5)
    return {
        weight: PackedTensor.of(
            rng.standard_normal((32, int(rng.integers(1, 5)) * 16)).astype(np.float32),
            BFP4 if weight.name in ("w1", "w3") else BFP8,
        )
        for weight in SCHEDULE
    }


def test_both_sources_give_the_same_bits_step_after_step():
    packed = tensors()
    direct = DirectWeights(packed)
    prefetcher = WeightPrefetcher(packed, SCHEDULE, capacity_bytes=2 * 32 * 64 * 4)
    for _ in range(20):
        prefetcher.begin_step()
        for weight in SCHEDULE:
            assert prefetcher.take(weight).tobytes() == direct.take(weight).tobytes()
        prefetcher.end_step()
        assert prefetcher.read(SCHEDULE[0]).tobytes() == direct.read(SCHEDULE[0]).tobytes()
    stats = prefetcher.stats()
    assert 0 < stats.peak_bytes <= stats.capacity_bytes == 2 * 32 * 64 * 4
    prefetcher.close()


def test_a_slow_prefetcher_stalls_and_a_fast_one_waits_for_room():
    packed = tensors()
    largest = max(t.unpacked_bytes for t in packed.values())
    slow = WeightPrefetcher(
        packed, SCHEDULE, capacity_bytes=largest, before_unpack=lambda _: time.sleep(0.002)
    )
    fast = WeightPrefetcher(packed, SCHEDULE, capacity_bytes=largest)
    for source, pause_s in ((slow, 0), (fast, 0.002)):
        source.begin_step()
        for weight in SCHEDULE:
            source.take(weight)
            time.sleep(pause_s)
        source.end_step()
    assert slow.stats().stalls > 10
    assert slow.stats().stall_s > 0
    assert fast.stats().full_waits > 10
    assert fast.stats().full_wait_s > 0


def test_its_failure_reaches_the_model_with_its_cause():
    def fail(weight: WeightId) -> None:
        if weight == WeightId(1, "w1"):
            raise OSError("the file is gone")

    prefetcher = WeightPrefetcher(tensors(), SCHEDULE, capacity_bytes=1 << 20, before_unpack=fail)
    prefetcher.begin_step()
    for weight in SCHEDULE[:7]:
        prefetcher.take(weight)
    with pytest.raises(PrefetchError, match="layer 1 w1") as caught:
        prefetcher.take(WeightId(1, "w1"))
    assert isinstance(caught.value.__cause__, OSError)
    prefetcher.close()


def test_closing_in_the_middle_of_a_step_ends_the_thread():
    packed = tensors()
    largest = max(t.unpacked_bytes for t in packed.values())
    prefetcher = WeightPrefetcher(packed, SCHEDULE, capacity_bytes=largest)
    prefetcher.begin_step()
    prefetcher.take(SCHEDULE[0])
    prefetcher.close()
    assert prefetcher._thread is None


def test_the_bound_holds_the_largest_weight_or_is_refused():
    packed = tensors()
    assert buffer_bytes(packed, None) == DEFAULT_BUFFER_BYTES == 19_009_536
    largest = max(t.unpacked_bytes for t in packed.values())
    assert buffer_bytes(packed, largest) == largest
    with pytest.raises(ConfigError, match=f"give at least {largest}"):
        buffer_bytes(packed, largest - 1)
