"""The prefetcher: a thread that unpacks the weights of a step ahead of the matmuls.

It plays the Galaxy's 12 sender cores. It is started once per decode step, goes through all layers
in the order in which the model multiplies (wqkv, wo, w1, w3, w2), and ends by itself. It touches
arrays and the circular buffer, never MPI.

References
----------
.. [1] tt-metal, models/demos/llama3_70b_galaxy/tt/prefetcher_common.py.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence

from galaxy_mpi.arrays import F32
from galaxy_mpi.dtypes import PackedTensor
from galaxy_mpi.errors import BufferClosedError, ConfigError
from galaxy_mpi.prefetch.circular_buffer import CircularBuffer
from galaxy_mpi.prefetch.weight_source import PrefetchStats, WeightId

__all__ = ["DEFAULT_BUFFER_BYTES", "WeightPrefetcher", "buffer_bytes"]

DEFAULT_BUFFER_BYTES = 24 * 792_064
"""The global circular buffer of a chip: 728 tiles of 1,088 bytes on each of 24 receiver cores
(tt-metal, prefetcher_common.py). Here it bounds *unpacked* bytes of host memory."""


def buffer_bytes(tensors: Mapping[WeightId, PackedTensor], asked: int | None) -> int:
    """Return the capacity of the circular buffer.

    Without a wish: the Galaxy's, or twice the largest weight if that is more.

    Raises
    ------
    ConfigError
        If ``asked`` does not hold the largest weight.
    """
    # In an order of its own: a shard cache gives them in another than the model does.
    largest = max(sorted(tensors, key=str), key=lambda weight: tensors[weight].unpacked_bytes)
    need = tensors[largest].unpacked_bytes
    if asked is None:
        return max(DEFAULT_BUFFER_BYTES, 2 * need)
    if asked < need:
        raise ConfigError(
            f"--circular-buffer-bytes {asked} cannot hold {largest}, which has {need} bytes "
            f"unpacked on each chip; give at least {need}, better {2 * need}"
        )
    return asked


class WeightPrefetcher:
    """Streams weights through a circular buffer, one thread per step.

    Parameters
    ----------
    tensors : mapping of WeightId to PackedTensor
        This chip's weights.
    schedule : sequence of WeightId
        The order in which a step takes them.
    capacity_bytes : int
        Bound of the circular buffer.
    timeout_s : float
        How long `take` waits, in seconds of host time.
    before_unpack : callable, optional
        Called by the thread with each weight before it unpacks it (tests delay or fail here).
    note : callable, optional
        Called by the thread with (weight, begin, end) of each unpacking, in seconds of the host's
        clock.
    note_fill : callable, optional
        See `CircularBuffer`.
    """

    def __init__(
        self,
        tensors: Mapping[WeightId, PackedTensor],
        schedule: Sequence[WeightId],
        *,
        capacity_bytes: int,
        timeout_s: float = 120.0,
        before_unpack: Callable[[WeightId], None] | None = None,
        note: Callable[[str, float, float], None] | None = None,
        note_fill: Callable[[int], None] | None = None,
    ) -> None:
        self._tensors, self._schedule = tensors, list(schedule)
        self._timeout_s, self._before_unpack, self._note = timeout_s, before_unpack, note
        self._buffer: CircularBuffer[WeightId] = CircularBuffer(capacity_bytes, note_fill)
        self._thread: threading.Thread | None = None

    def begin_step(self) -> None:
        """Start the thread on the first layer."""
        assert self._thread is None, "a step is under way"
        self._thread = threading.Thread(target=self._run, name="prefetcher", daemon=True)
        self._thread.start()

    def take(self, weight: WeightId) -> F32:
        """Return the next weight of the schedule, which must be ``weight``.

        Raises
        ------
        PrefetchError
            See `CircularBuffer.pop`.
        """
        values = self._buffer.pop(weight, timeout_s=self._timeout_s)
        return values.reshape(self._tensors[weight].shape)

    def read(self, weight: WeightId) -> F32:
        """Unpack a weight in the storage of the circular buffer, which is empty by now."""
        self._buffer.release()
        tensor = self._tensors[weight]
        return tensor.unpack(self._buffer.borrow(tensor.n_values).reshape(tensor.shape))

    def end_step(self) -> None:
        """Wait for the thread, which has delivered everything and ends by itself."""
        self._buffer.release()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def stats(self) -> PrefetchStats:
        """Return the counts so far."""
        buffer = self._buffer
        return PrefetchStats(
            stalls=buffer.stalls,
            stall_s=buffer.stall_s,
            full_waits=buffer.full_waits,
            full_wait_s=buffer.full_wait_s,
            peak_bytes=buffer.peak_bytes,
            capacity_bytes=buffer.capacity_bytes,
        )

    def close(self) -> None:
        """End the thread, wherever it is."""
        self._buffer.close()
        self.end_step()

    def _run(self) -> None:
        try:
            for weight in self._schedule:
                tensor = self._tensors[weight]
                if self._before_unpack is not None:
                    self._before_unpack(weight)
                room = self._buffer.reserve(weight, tensor.n_values)
                began = time.perf_counter()
                tensor.unpack(room.reshape(tensor.shape))
                if self._note is not None:
                    self._note(str(weight), began, time.perf_counter())
                self._buffer.commit()
        except BufferClosedError:
            pass  # the run is over
        except BaseException as error:  # handed to the compute thread, which raises it
            self._buffer.close(error)
