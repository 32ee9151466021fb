"""How a program gets its weights: in place, unpacked when used, or streamed by a thread.

All have the methods of `galaxy_mpi.systems.WeightFeed` and bind the same values. Weights in float32
need no unpacking, so programs read them in place.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from galaxy_mpi.arrays import F32
from galaxy_mpi.dtypes import FLOAT32, PackedTensor
from galaxy_mpi.errors import PrefetchError
from galaxy_mpi.prefetch.buffer import PrefetchStats
from galaxy_mpi.prefetch.places import Place, Places
from galaxy_mpi.weights import WeightId

if TYPE_CHECKING:
    from galaxy_mpi.dtypes.codec import Codec
    from galaxy_mpi.program import Binder

__all__ = ["DirectFeed", "PrefetchFeed", "Prefetcher"]


def in_place(tensor: PackedTensor) -> F32 | None:
    """Return a view of a weight that needs no unpacking, else None."""
    if tensor.dtype is not FLOAT32:
        return None
    values: F32 = tensor.data.view(np.float32).reshape(tensor.shape)
    return values


class DirectFeed:
    """Unpacks a weight when it is used, into one array of the chip.

    Parameters
    ----------
    tensors : mapping of WeightId to PackedTensor
        The chip's weights.
    storage : ndarray of float32
        At least as large as the largest weight.
    """

    def __init__(self, tensors: Mapping[WeightId, PackedTensor], storage: F32) -> None:
        self._tensors, self._storage = tensors, storage

    def take(self, chip: "Binder", weight: WeightId) -> F32:
        """Add the unpacking; return the array that will hold the weight."""
        tensor = self._tensors[weight]
        ready = in_place(tensor)
        if ready is not None:
            return ready
        out = self._storage[: tensor.n_values].reshape(tensor.shape)
        chip.call(chip.codec(tensor.dtype, tensor.shape).unpack, tensor.data, out)
        return out

    def done(self, chip: "Binder") -> None:
        """Do nothing: the next weight is unpacked over this one."""


class _Item:
    """One weight of a step on its way through the buffer."""

    def __init__(
        self, feed: "PrefetchFeed", weight: WeightId, tensor: PackedTensor, place: Place, out: F32
    ) -> None:
        self.feed, self.weight, self.data = feed, weight, tensor.data
        self.after, self.out, self.n_bytes = place.after, out, tensor.unpacked_bytes
        # A codec of the thread, because a codec belongs to one thread.
        self.unpack = feed.prefetcher.codec(tensor).unpack
        self.number = feed.n_taken
        self.ready_in = 0
        """The last step in which it was ready."""


class PrefetchFeed:
    """The circular buffer of one chip, filled by the process's `Prefetcher`.

    Parameters
    ----------
    prefetcher : Prefetcher
    tensors : mapping of WeightId to PackedTensor
        The chip's weights.
    storage : ndarray of float32
        The buffer.
    """

    def __init__(
        self, prefetcher: "Prefetcher", tensors: Mapping[WeightId, PackedTensor], storage: F32
    ) -> None:
        self.prefetcher, self._tensors, self._storage = prefetcher, tensors, storage
        self._places = Places(len(storage))
        self.capacity_bytes = storage.nbytes
        self.n_taken, self.n_released = 0, 0
        self._held: _Item | None = None

    def take(self, chip: "Binder", weight: WeightId) -> F32:
        """Add the wait for a weight; return its place in the buffer."""
        tensor = self._tensors[weight]
        ready = in_place(tensor)
        if ready is not None:
            return ready
        place = self._places.add(tensor.n_values)
        out = self._storage[place.start : place.stop].reshape(tensor.shape)
        self._held = _Item(self, weight, tensor, place, out)
        self.n_taken += 1
        chip.call(self.prefetcher.wait_for, self._held)
        return out

    def done(self, chip: "Binder") -> None:
        """Add the release of the weight taken last."""
        if self._held is not None:
            chip.call(self.prefetcher.release, self._held)
            self._held = None


class Prefetcher:
    """A thread that unpacks the weights of a step ahead of the matmuls of a process's chips.

    It plays the Galaxy's 12 sender cores. It is started once per step, unpacks all weights in the
    order in which the program reads them, and then ends. It touches only arrays, never MPI.

    Parameters
    ----------
    timeout_s : float
        How long the compute thread waits for a weight, in seconds of host time.
    note : callable, optional
        Called by the thread with (weight, begin, end) of each unpacking, in seconds of the host's
        clock.
    note_fill : callable, optional
        Called with the number of bytes that come into use, negative when they are released.
    note_wait : callable, optional
        Called with (weight, begin, end) of each wait for a weight, as ``note``.
    before_unpack : callable, optional
        Called by the thread with each weight before it unpacks it.

    Attributes
    ----------
    stats : PrefetchStats

    References
    ----------
    .. [1] tt-metal, models/demos/llama3_70b_galaxy/tt/prefetcher_common.py.
    """

    def __init__(
        self,
        *,
        timeout_s: float = 120.0,
        note: Callable[[str, float, float], None] | None = None,
        note_fill: Callable[[int], None] | None = None,
        note_wait: Callable[[str, float, float], None] | None = None,
        before_unpack: Callable[[WeightId], None] | None = None,
    ) -> None:
        self._timeout_s, self._note, self._note_fill = timeout_s, note, note_fill
        self._note_wait = note_wait
        self._before_unpack = before_unpack
        self._items: list[_Item] = []
        self._codecs: dict[tuple[str, tuple[int, ...]], Codec] = {}
        self._changed = threading.Condition()
        self._waits = 0  # threads that sleep in `_changed`
        self._step = 0
        self._error: BaseException | None = None
        self._closed = False
        self._thread: threading.Thread | None = None
        self.stats = PrefetchStats()

    def codec(self, tensor: PackedTensor) -> "Codec":
        """Return the thread's codec for a tensor."""
        key = tensor.dtype.name, tensor.shape
        if key not in self._codecs:
            self._codecs[key] = tensor.dtype.codec(tensor.shape)
        return self._codecs[key]

    def plan(self, calls: Sequence[tuple[Callable[..., object], tuple[object, ...]]]) -> None:
        """Record the order in which a bound program waits for weights."""
        waits = [arguments[0] for call, arguments in calls if call == self.wait_for]
        self._items = [item for item in waits if isinstance(item, _Item)]
        # A weight is written once those before `after` are released, so this much may be held.
        held: dict[PrefetchFeed, list[int]] = {}
        for item in self._items:
            sizes = held.setdefault(item.feed, [])
            sizes.append(item.n_bytes)
            most = sum(sizes[item.after :])
            self.stats.peak_bytes = max(self.stats.peak_bytes, most)
            self.stats.capacity_bytes = max(self.stats.capacity_bytes, item.feed.capacity_bytes)

    def begin_step(self) -> None:
        """Start the thread; without weights to unpack there is none."""
        self._step += 1
        for item in self._items:
            item.feed.n_released = 0
        if self._items:
            self._thread = threading.Thread(target=self._run, name="prefetcher", daemon=True)
            self._thread.start()

    def end_step(self) -> None:
        """Wait for the thread to end, after it has delivered everything."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def wait_for(self, item: _Item) -> None:
        """Wait until a weight is in its place.

        Raises
        ------
        PrefetchError
            If the thread failed (its error is the cause) or does not deliver in time.
        """
        if item.ready_in == self._step:
            return
        self.stats.stalls += 1
        began = time.perf_counter()
        done = self._sleep_until(
            lambda: item.ready_in == self._step or self._error is not None or self._closed,
            self._timeout_s,
        )
        ended = time.perf_counter()
        self.stats.stall_s += ended - began
        if self._note_wait is not None:
            self._note_wait(str(item.weight), began, ended)
        if item.ready_in == self._step:
            return
        if not done:
            raise PrefetchError(f"waited {self._timeout_s:.0f} s for {item.weight}")
        raise PrefetchError(
            f"the prefetcher ended before it delivered {item.weight}"
        ) from self._error

    def release(self, item: _Item) -> None:
        """Release the space of a weight."""
        item.feed.n_released = item.number + 1
        self._count(-item.n_bytes)
        if self._waits:
            self._wake()

    def close(self, error: BaseException | None = None) -> None:
        """End the thread, whatever it is doing."""
        self._closed, self._error = True, self._error or error
        self._wake()
        self.end_step()

    def _run(self) -> None:
        step = self._step
        try:
            for item in self._items:
                if item.feed.n_released < item.after:
                    self._wait_for_room(item)
                if self._closed:
                    return
                if self._before_unpack is not None:
                    self._before_unpack(item.weight)
                self._count(item.n_bytes)
                began = time.perf_counter()
                item.unpack(item.data, item.out)
                if self._note is not None:
                    self._note(str(item.weight), began, time.perf_counter())
                item.ready_in = step
                if self._waits:
                    self._wake()
        except BaseException as error:  # handed to the compute thread, which raises it
            self._error = error
            self._wake()

    def _wait_for_room(self, item: _Item) -> None:
        self.stats.full_waits += 1
        began = time.perf_counter()
        self._sleep_until(lambda: item.feed.n_released >= item.after or self._closed, None)
        self.stats.full_wait_s += time.perf_counter() - began

    def _count(self, n_bytes: int) -> None:
        if self._note_fill is not None:
            self._note_fill(n_bytes)

    def _sleep_until(self, ready: Callable[[], bool], timeout_s: float | None) -> bool:
        """Sleep until a condition holds; code that changes its inputs checks ``_waits``."""
        with self._changed:
            self._waits += 1
            try:
                return self._changed.wait_for(ready, timeout_s)
            finally:
                self._waits -= 1

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()
