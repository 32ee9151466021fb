"""A bounded circular queue of tensors between one producer and one consumer thread.

The storage is one array, made once. The producer reserves contiguous room at the head, fills it
and commits; the consumer pops the oldest tensor and reads it in place; its room is free again
when the next tensor is popped. A tensor that does not fit before the end of the storage starts
at its beginning again::

    storage   [ w3 |      (free)       | wqkv | wo | w1 | unused ]
                    ^ head               ^ tail
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

import numpy as np

from galaxy_mpi.arrays import F32
from galaxy_mpi.errors import BufferClosedError, PrefetchError

__all__ = ["CircularBuffer"]

_Name = TypeVar("_Name")


class _Segment(NamedTuple, Generic[_Name]):
    name: _Name
    start: int
    stop: int


class CircularBuffer(Generic[_Name]):
    """The queue. Reserve and commit belong to the producer, pop and release to the consumer.

    Parameters
    ----------
    capacity_bytes : int
        Bytes of storage; never exceeded.
    note_fill : callable, optional
        Called with the bytes that come into use, negative as they are released.

    Attributes
    ----------
    stalls, stall_s : int, float
        How often and how long, in seconds of host time, the consumer waited for data.
    full_waits, full_wait_s : int, float
        How often and how long the producer waited for room: back-pressure.
    peak_bytes : int
        Most bytes that were ever in use at once.
    """

    def __init__(self, capacity_bytes: int, note_fill: Callable[[int], None] | None = None) -> None:
        self.capacity_bytes, self._note_fill = capacity_bytes, note_fill
        self._storage = np.empty(capacity_bytes // 4, np.float32)
        self._ready: deque[_Segment[_Name]] = deque()
        self._held: _Segment[_Name] | None = None
        self._filling: _Segment[_Name] | None = None
        self._used: deque[_Segment[_Name]] = deque()
        self._head = 0
        self._changed = threading.Condition()
        self._closed = False
        self._error: BaseException | None = None
        self.stalls, self.stall_s = 0, 0.0
        self.full_waits, self.full_wait_s = 0, 0.0
        self.peak_bytes = 0

    def reserve(self, name: _Name, n_values: int) -> F32:
        """Return room for a tensor, waiting until there is enough.

        Parameters
        ----------
        name : hashable
            What the consumer will ask for.
        n_values : int
            Number of float32 values.

        Returns
        -------
        ndarray of shape (n_values,), float32
            A view of the storage, to be filled before `commit`.

        Raises
        ------
        PrefetchError
            If the tensor can never fit.
        BufferClosedError
            If the buffer is closed.
        """
        if n_values > len(self._storage):
            raise PrefetchError(
                f"{name} needs {4 * n_values} bytes unpacked and can never fit the circular "
                f"buffer of {self.capacity_bytes} bytes; raise --circular-buffer-bytes"
            )
        with self._changed:
            if self._closed:
                raise BufferClosedError(str(name))
            start = self._place(n_values)
            if start is None:
                self.full_waits += 1
                self.full_wait_s += self._wait(
                    lambda: self._closed or self._place(n_values) is not None, None
                )[1]
                if self._closed:
                    raise BufferClosedError(str(name))
                start = self._place(n_values)
            assert start is not None
            segment = _Segment(name, start, start + n_values)
            self._head = segment.stop
            self._used.append(segment)
            self._filling = segment
            if self._note_fill is not None:
                self._note_fill(4 * n_values)
            self.peak_bytes = max(self.peak_bytes, 4 * sum(s.stop - s.start for s in self._used))
        return self._storage[segment.start : segment.stop]

    def commit(self) -> None:
        """Hand the reserved tensor to the consumer."""
        with self._changed:
            assert self._filling is not None, "commit without reserve"
            self._ready.append(self._filling)
            self._filling = None
            self._changed.notify_all()

    def pop(self, name: _Name, *, timeout_s: float) -> F32:
        """Return the next tensor, which must be ``name``, releasing the previous one.

        Returns
        -------
        ndarray of shape (n_values,), float32
            A view of the storage: valid until the next `pop` or `release`.

        Raises
        ------
        PrefetchError
            If the producer failed (its error is the cause), delivered another tensor, or
            delivered nothing within ``timeout_s``.
        """
        self.release()
        with self._changed:
            if not self._ready:
                self.stalls += 1
                done, waited_s = self._wait(
                    lambda: bool(self._ready) or self._error is not None or self._closed, timeout_s
                )
                self.stall_s += waited_s
                if not done:
                    raise PrefetchError(
                        f"waited {timeout_s:.0f} s for {name}; {len(self._used)} tensors in the "
                        f"circular buffer of {self.capacity_bytes} bytes"
                    )
            if not self._ready:
                raise PrefetchError(f"the prefetcher ended before it delivered {name}") from (
                    self._error
                )
            segment = self._ready.popleft()
            self._held = segment
        if segment.name != name:
            raise PrefetchError(f"{name} was asked for, but {segment.name} is next in the schedule")
        return self._storage[segment.start : segment.stop]

    def release(self) -> None:
        """Free the room of the tensor popped last."""
        if self._held is None:
            return
        with self._changed:
            freed = self._used.popleft()
            assert freed is self._held
            self._held = None
            if self._note_fill is not None:
                self._note_fill(-4 * (freed.stop - freed.start))
            self._changed.notify_all()

    def borrow(self, n_values: int) -> F32:
        """Return the start of the storage while nothing is queued, for a tensor read in place."""
        assert not self._used, "the storage is in use"
        return self._storage[:n_values]

    def close(self, error: BaseException | None = None) -> None:
        """End the queue; whoever waits is woken, and sees ``error`` if there was one."""
        with self._changed:
            self._closed = True
            self._error = self._error or error
            self._changed.notify_all()

    def _place(self, n_values: int) -> int | None:
        """Return where ``n_values`` fit now, or None."""
        if not self._used:
            self._head = 0
            return 0
        tail = self._used[0].start
        if self._head <= tail:  # wrapped: the free room lies between head and tail
            return self._head if self._head + n_values <= tail else None
        if self._head + n_values <= len(self._storage):
            return self._head
        return 0 if n_values <= tail else None

    def _wait(self, ready: Callable[[], bool], timeout_s: float | None) -> tuple[bool, float]:
        began = time.perf_counter()
        done = self._changed.wait_for(ready, timeout_s)
        return done, time.perf_counter() - began
