"""Weights on their way: places in the circular buffer, and the thread that fills it."""

import threading
import time

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from galaxy_mpi.dtypes import BFP4, BFP8, FLOAT32, PackedTensor
from galaxy_mpi.errors import ConfigError, PrefetchError
from galaxy_mpi.prefetch import (
    DirectFeed,
    Places,
    Prefetcher,
    PrefetchFeed,
    buffer_bytes,
)
from galaxy_mpi.prefetch.buffer import DEFAULT_BUFFER_BYTES
from galaxy_mpi.weights import Weight, WeightId

IDS = [WeightId(layer, w) for layer in range(3) for w in Weight if w is not Weight.LM_HEAD]


def prefetcher_threads():
    return {thread for thread in threading.enumerate() if thread.name == "prefetcher"}


class NaiveBuffer(RuleBasedStateMachine):
    """A buffer whose every value knows which tensor it belongs to.

    Tensors are planned, written and released, each in order, at any time that is allowed.
    """

    @initialize(capacity=st.integers(1, 40))
    def begin(self, capacity):
        self.places, self.capacity = Places(capacity), capacity
        self.planned, self.n_written, self.n_released = [], 0, 0
        self.owners = [None] * capacity

    @rule(data=st.data())
    def plan(self, data):
        size = data.draw(st.integers(1, self.capacity))
        place = self.places.add(size)
        assert 0 <= place.start < place.stop <= self.capacity
        assert place.stop - place.start == size
        # As early as can be: behind the last tensor that lies there, and behind nobody else.
        taken = [
            n for n, p in enumerate(self.planned) if p.start < place.stop and place.start < p.stop
        ]
        before = self.planned[-1].after if self.planned else 0
        assert place.after == max([before, *(n + 1 for n in taken)])
        self.planned.append(place)

    @precondition(lambda self: self.n_written < len(self.planned))
    @rule()
    def write(self):
        place = self.planned[self.n_written]
        if self.n_released < place.after:
            return  # the thread waits
        cells = range(place.start, place.stop)
        assert all(self.owners[cell] is None for cell in cells)
        for cell in cells:
            self.owners[cell] = self.n_written
        self.n_written += 1

    @precondition(lambda self: self.n_released < self.n_written)
    @rule()
    def release(self):
        place = self.planned[self.n_released]
        for cell in range(place.start, place.stop):
            assert self.owners[cell] == self.n_released
            self.owners[cell] = None
        self.n_released += 1

    @rule(size=st.integers(1, 100))
    def refuse(self, size):
        with pytest.raises(ValueError, match="cannot fit"):
            self.places.add(self.capacity + size)

    @invariant()
    def whoever_waits_waits_for_somebody_who_is_there(self):
        for number, place in enumerate(getattr(self, "planned", [])):
            assert place.after <= number


TestPlaces = NaiveBuffer.TestCase
TestPlaces.settings = settings(deadline=None, max_examples=60, stateful_step_count=60)


class Chip:
    """Stands for a binder: keeps the calls."""

    def __init__(self):
        self.calls = []

    def call(self, function, *arguments):
        self.calls.append((function, arguments))

    def codec(self, dtype, shape):
        return dtype.codec(shape)


def tensors(dtypes=(BFP4, BFP8)) -> dict[WeightId, PackedTensor]:
    rng = np.random.default_rng(5)
    return {
        weight: PackedTensor.of(
            rng.standard_normal((32, int(rng.integers(1, 5)) * 16)).astype(np.float32),
            dtypes[number % len(dtypes)],
        )
        for number, weight in enumerate(IDS)
    }


def bound(feeds, seen, pause_s=0.0):
    """Return the calls of chips in step that take all weights and note their values."""
    chips = [Chip() for _ in feeds]
    for weight in IDS:
        for chip, feed in zip(chips, feeds, strict=True):
            values = feed.take(chip, weight)
            chip.call(lambda v=values: seen.append(v.tobytes()))
            if pause_s:
                chip.call(time.sleep, pause_s)
            feed.done(chip)
    n = len(chips[0].calls) // len(IDS)
    # One weight of every chip, then the next.
    return [
        call
        for start in range(0, n * len(IDS), n)
        for chip in chips
        for call in chip.calls[start : start + n]
    ]


def run(calls):
    for call, arguments in calls:
        call(*arguments)


@pytest.mark.parametrize("n_chips", [1, 3])
def test_both_sources_give_the_same_bits_step_after_step(n_chips):
    packed = tensors()
    expected = [packed[weight].unpack().tobytes() for weight in IDS for _ in range(n_chips)]
    direct, streamed = [], []
    feeds = [DirectFeed(packed, np.empty(32 * 64, np.float32)) for _ in range(n_chips)]
    run(bound(feeds, direct))
    assert direct == expected
    prefetcher = Prefetcher()
    storages = [np.empty(2 * 32 * 64, np.float32) for _ in range(n_chips)]
    feeds = [PrefetchFeed(prefetcher, packed, storage) for storage in storages]
    calls = bound(feeds, streamed)
    prefetcher.plan(calls)
    for _ in range(20):
        streamed.clear()
        prefetcher.begin_step()
        run(calls)
        prefetcher.end_step()
        assert streamed == expected
    stats = prefetcher.stats
    assert 0 < stats.peak_bytes <= stats.capacity_bytes == 2 * 32 * 64 * 4
    prefetcher.close()


def test_float32_is_read_where_it_lies_and_needs_no_thread():
    packed, seen, before = tensors((FLOAT32,)), [], prefetcher_threads()
    prefetcher = Prefetcher()
    feed = PrefetchFeed(prefetcher, packed, np.empty(32 * 64, np.float32))
    chip = Chip()
    values = feed.take(chip, IDS[0])
    assert np.shares_memory(values, packed[IDS[0]].data)
    assert chip.calls == []
    calls = bound([feed], seen)
    prefetcher.plan(calls)
    prefetcher.begin_step()
    run(calls)
    assert prefetcher_threads() <= before
    assert seen == [packed[weight].data.tobytes() for weight in IDS]


def test_a_slow_prefetcher_stalls_and_a_fast_one_waits_for_room():
    packed = tensors()
    largest = max(t.n_values for t in packed.values())
    slow = Prefetcher(before_unpack=lambda _: time.sleep(0.002))
    fast = Prefetcher()
    for source, pause_s in ((slow, 0.0), (fast, 0.002)):
        feed = PrefetchFeed(source, packed, np.empty(largest, np.float32))
        calls = bound([feed], [], pause_s)
        source.plan(calls)
        source.begin_step()
        run(calls)
        source.end_step()
    assert slow.stats.stalls > 10
    assert slow.stats.stall_s > 0
    assert fast.stats.full_waits > 10
    assert fast.stats.full_wait_s > 0


def started(prefetcher, storage_values=1 << 18):
    feed = PrefetchFeed(prefetcher, tensors(), np.empty(storage_values, np.float32))
    calls = bound([feed], [])
    prefetcher.plan(calls)
    prefetcher.begin_step()
    return calls


def test_its_failure_reaches_the_model_with_its_cause():
    def fail(weight: WeightId) -> None:
        if weight == WeightId(1, Weight.W1):
            raise OSError("the file is gone")

    prefetcher = Prefetcher(before_unpack=fail)
    calls = started(prefetcher)
    run(calls[: 7 * 3])
    with pytest.raises(PrefetchError, match="layer 1 w1") as caught:
        run(calls[7 * 3 :])
    assert isinstance(caught.value.__cause__, OSError)
    prefetcher.close()


def test_waiting_in_vain_ends_with_a_name():
    prefetcher = Prefetcher(timeout_s=0.01, before_unpack=lambda _: time.sleep(0.2))
    calls = started(prefetcher)
    with pytest.raises(PrefetchError, match="waited 0 s for layer 0 wqkv"):
        run(calls)
    prefetcher.close()


def test_closing_in_the_middle_of_a_step_ends_the_thread():
    largest, before = max(t.n_values for t in tensors().values()), prefetcher_threads()
    prefetcher = Prefetcher()
    calls = started(prefetcher, largest)
    run(calls[:1])
    assert prefetcher_threads() > before
    prefetcher.close()
    assert prefetcher_threads() <= before


def test_the_bound_holds_the_largest_weight_or_is_refused():
    packed = tensors()
    assert buffer_bytes(packed, None) == DEFAULT_BUFFER_BYTES == 19_009_536
    largest = max(t.unpacked_bytes for t in packed.values())
    assert buffer_bytes(packed, largest) == largest
    with pytest.raises(ConfigError, match=f"give at least {largest}"):
        buffer_bytes(packed, largest - 1)
