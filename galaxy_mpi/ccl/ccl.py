"""The collectives of one chip, with the persistent buffers they use.

Buffers are made when a collective of a shape first runs, live as long as the mode (decode), and
are double: an index per axis goes 0, 1, 0, 1 with every collective on that axis. So a neighbour
that is already in the next collective writes elsewhere, and no barrier is needed.
"""

import time
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import numpy as np

from galaxy_mpi.arrays import F32, Bytes
from galaxy_mpi.ccl.blocks import unpack_blocks
from galaxy_mpi.ccl.collectives import AllGather
from galaxy_mpi.ccl.gathered import GatheredAllReduce, GatheredReduceScatter
from galaxy_mpi.ccl.topology import Direct, Topology
from galaxy_mpi.dtypes import DType
from galaxy_mpi.mesh import Axis, Transport

__all__ = ["CCL", "BufferKey"]


class BufferKey:
    """Names of the persistent buffers (tt-metal, llama_ccl.py, gives most of them)."""

    LAYERNORM = "LAYERNORM"
    CREATE_HEADS = "CREATE_HEADS"
    CONCAT_HEADS = "CONCAT_HEADS"
    WO = "WO"
    GATE_UP = "GATE_UP"
    BINARY_MUL = "BINARY_MUL"
    FF2 = "FF2"
    LM_HEAD = "LM_HEAD"
    SAMPLING_VALUES = "SAMPLING_VALUES"
    SAMPLING_INDICES = "SAMPLING_INDICES"


ONE_LINK = frozenset({BufferKey.LAYERNORM, BufferKey.SAMPLING_VALUES, BufferKey.SAMPLING_INDICES})
"""Collectives so small that the system gives them one link whatever the machine has."""


class _Collective(Protocol):
    n_bytes: int

    def free(self) -> None: ...


class _Reduction(_Collective, Protocol):
    def __call__(self, values: F32, /) -> F32: ...


_C = TypeVar("_C", bound=_Collective)
_What = tuple[Any, ...]


class CCL:
    """Collectives of one chip over its row and its column.

    Parameters
    ----------
    transport : Transport
    topology : callable
        Makes the `Topology` of a group from its size: whether blocks are gathered hop by hop, or
        straight; the bits are the same.
    num_links : int
        Links between neighbours: 4 on the 6U Galaxy, 3 on the 4U.

    Attributes
    ----------
    host_time_s : float
        Seconds of host time spent in collectives: copying, packing and waiting.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        topology: Callable[[int], Topology] = Direct,
        num_links: int = 4,
    ) -> None:
        self._transport, self._topology, self._num_links = transport, topology, num_links
        self._persistent: dict[tuple[_What, int], _Collective] = {}
        self.buffer_index = dict.fromkeys(Axis, 0)
        self.host_time_s = 0.0

    def size(self, axis: Axis) -> int:
        """Return the number of chips along ``axis``."""
        return self._transport.group(axis).size

    @property
    def persistent_bytes(self) -> int:
        """Bytes of all persistent buffers, as host memory."""
        return sum(collective.n_bytes for collective in self._persistent.values())

    def all_gather_bytes(self, block: Bytes, *, axis: Axis, key: str) -> Bytes:
        """Return every member's block.

        Parameters
        ----------
        block : ndarray of shape (n,), uint8
            As many bytes on every member.

        Returns
        -------
        ndarray of shape (size, n), uint8
            A view of the persistent buffer: valid until the next collective on this axis.
        """
        began = time.perf_counter()

        def make(links: int) -> AllGather:
            group, label = self._transport.group(axis), f"all_gather {key}"
            wires = self._topology(group.size)
            return AllGather(group, wires, len(block), num_links=links, label=label)

        blocks = self._collective((AllGather, key, axis, len(block)), make)(block)
        self.host_time_s += time.perf_counter() - began
        return blocks

    def all_gather(self, values: F32, *, axis: Axis, dtype: DType, key: str) -> F32:
        """Return every member's values, rounded to ``dtype``: a new array (size, *shape)."""
        blocks = self.all_gather_bytes(dtype.pack(values), axis=axis, key=key)
        began = time.perf_counter()
        gathered = np.empty((len(blocks), *values.shape), np.float32)
        unpack_blocks(dtype, blocks, gathered)
        self.host_time_s += time.perf_counter() - began
        return gathered

    def reduce_scatter(self, chunks: F32, *, axis: Axis, dtype: DType, key: str) -> F32:
        """Return the sum of this chip's chunk; see `GatheredReduceScatter`.

        Parameters
        ----------
        chunks : ndarray of shape (size, ...), float32
            ``chunks[i]`` is this chip's term of what member i is to get.
        """

        def make(links: int) -> GatheredReduceScatter:
            group, label = self._transport.group(axis), f"reduce_scatter {key}"
            return GatheredReduceScatter(
                group, chunks.shape[1:], dtype, num_links=links, label=label
            )

        return self._reduce(
            (GatheredReduceScatter, key, axis, chunks.shape, dtype.name), make, chunks
        )

    def all_reduce(self, values: F32, *, axis: Axis, dtype: DType, key: str) -> F32:
        """Return the sum over the members; see `GatheredAllReduce`."""

        def make(links: int) -> GatheredAllReduce:
            group, label = self._transport.group(axis), f"all_reduce {key}"
            wires = self._topology(group.size)
            return GatheredAllReduce(
                group, wires, values.shape, dtype, num_links=links, label=label
            )

        return self._reduce((GatheredAllReduce, key, axis, values.shape, dtype.name), make, values)

    def free(self) -> None:
        """Release all persistent buffers and start again with index 0: the mode is over."""
        for collective in self._persistent.values():
            collective.free()
        self._persistent.clear()
        self.buffer_index = dict.fromkeys(Axis, 0)

    def _reduce(self, what: _What, make: Callable[[int], _Reduction], values: F32) -> F32:
        began = time.perf_counter()
        total = self._collective(what, make)(values)
        self.host_time_s += time.perf_counter() - began
        return total

    def _collective(self, what: _What, make: Callable[[int], _C]) -> _C:
        """Return the collective bound to the buffer whose turn it is; make both at first use.

        ``what`` is (class, key, axis, ...): all that two collectives may differ in.
        """
        _, key, axis = what[:3]
        index = self.buffer_index[axis]
        self.buffer_index[axis] = 1 - index
        found = self._persistent.get((what, index))
        if found is None:
            links = 1 if key in ONE_LINK else self._num_links
            # Both at once: every member binds in the same order whatever its index is.
            for slot in (0, 1):
                self._persistent[what, slot] = make(links)
            found = self._persistent[what, index]
        return found  # type: ignore[return-value]
