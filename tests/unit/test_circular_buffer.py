import threading
import time

import numpy as np
import pytest

from galaxy_mpi.errors import BufferClosedError, PrefetchError
from galaxy_mpi.prefetch import CircularBuffer


def produce(buffer: CircularBuffer, sizes: list[int]) -> threading.Thread:
    def body() -> None:
        for number, size in enumerate(sizes):
            buffer.reserve(number, size)[...] = number
            buffer.commit()

    thread = threading.Thread(target=body, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("capacity", [10, 13, 16, 25, 1000])
def test_tensors_arrive_whole_and_in_order_whatever_the_wrap_around(capacity):
    sizes = np.random.default_rng(capacity).integers(1, 11, 300).tolist()
    buffer: CircularBuffer[int] = CircularBuffer(4 * capacity)
    thread = produce(buffer, sizes)
    for number, size in enumerate(sizes):
        values = buffer.pop(number, timeout_s=10)
        if number % 37 == 0:
            time.sleep(0.001)  # let the producer run into the bound
        assert values.shape == (size,)
        assert (values == number).all()
    buffer.release()
    thread.join()
    assert buffer.peak_bytes <= buffer.capacity_bytes


def test_a_full_buffer_makes_the_producer_wait_and_counts_it():
    buffer: CircularBuffer[int] = CircularBuffer(4 * 10)
    thread = produce(buffer, [6, 6])
    time.sleep(0.05)
    assert thread.is_alive()
    assert buffer.full_waits == 1
    buffer.pop(0, timeout_s=1)
    buffer.pop(1, timeout_s=1)
    thread.join()
    assert buffer.full_wait_s > 0


def test_an_empty_buffer_stalls_the_consumer_and_counts_it():
    buffer: CircularBuffer[int] = CircularBuffer(40)
    threading.Timer(0.05, lambda: produce(buffer, [3])).start()
    buffer.pop(0, timeout_s=5)
    assert buffer.stalls == 1
    assert buffer.stall_s > 0


def test_a_tensor_that_can_never_fit_is_an_error_with_the_numbers():
    with pytest.raises(PrefetchError, match="needs 44 bytes .* buffer of 40 bytes"):
        CircularBuffer(40).reserve("w1", 11)


def test_waiting_in_vain_ends_with_a_name():
    with pytest.raises(PrefetchError, match="waited 0 s for w2"):
        CircularBuffer(40).pop("w2", timeout_s=0.01)


def test_a_tensor_out_of_order_is_an_error():
    buffer: CircularBuffer[str] = CircularBuffer(40)
    buffer.reserve("w1", 2)
    buffer.commit()
    with pytest.raises(PrefetchError, match="w3 was asked for, but w1 is next"):
        buffer.pop("w3", timeout_s=1)


def test_the_producers_error_reaches_the_consumer_as_the_cause():
    buffer: CircularBuffer[str] = CircularBuffer(40)
    cause = KeyError("w2")
    threading.Timer(0.02, lambda: buffer.close(cause)).start()
    with pytest.raises(PrefetchError, match="before it delivered w2") as caught:
        buffer.pop("w2", timeout_s=5)
    assert caught.value.__cause__ is cause


def test_closing_wakes_a_producer_that_waits_for_room():
    buffer: CircularBuffer[str] = CircularBuffer(40)
    buffer.reserve("w1", 10)
    buffer.commit()
    threading.Timer(0.02, buffer.close).start()
    with pytest.raises(BufferClosedError):
        buffer.reserve("w2", 10)
