"""The collectives of one chip, with the persistent buffers they use.

Buffers are made when a collective of a shape first runs, live as long as the mode (decode), and
are double: an index per axis goes 0, 1, 0, 1 with every collective on that axis, so the view that
one collective returned survives the next one on the same axis.
"""

import time
from collections.abc import Callable
from typing import Protocol, TypeVar

import numpy as np

from galaxy_mpi.arrays import F32, Bytes
from galaxy_mpi.ccl.collectives import (
    AllGather,
    GatheredAllReduce,
    GatheredReduceScatter,
    unpack_blocks,
)
from galaxy_mpi.ccl.topology import Direct, Line, Ring
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


_C = TypeVar("_C", bound=_Collective)


class CCL:
    """Collectives of one chip over its row and its column.

    Parameters
    ----------
    transport : Transport
    topology : type of Topology
        Whether blocks are gathered hop by hop, or straight; the bits are the same.
    num_links : int
        Links between neighbours: 4 on the 6U Galaxy, 3 on the 4U.

    Attributes
    ----------
    host_time_s : float
        Seconds of host time spent in collectives since `reset`: copying, packing and waiting.
    n_calls : int
        Collectives since `reset`.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        topology: type[Ring] | type[Line] | type[Direct] = Direct,
        num_links: int = 4,
    ) -> None:
        self._transport, self._topology, self._num_links = transport, topology, num_links
        self._persistent: dict[tuple[object, ...], _Collective] = {}
        self.buffer_index = dict.fromkeys(Axis, 0)
        self.host_time_s = 0.0
        self.n_calls = 0

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
            A view of the persistent buffer: valid until the second next call with this key.
        """
        began = time.perf_counter()
        gather = self._collective(
            (AllGather, key, axis, len(block)),
            axis,
            lambda links: AllGather(
                self._transport.group(axis),
                self._topology(self.size(axis)),
                len(block),
                num_links=links,
                label=f"all_gather {key}",
            ),
            key,
        )
        blocks = gather(block)
        self._note(began)
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
        began = time.perf_counter()
        scatter = self._collective(
            (GatheredReduceScatter, key, axis, chunks.shape, dtype.name),
            axis,
            lambda links: GatheredReduceScatter(
                self._transport.group(axis),
                chunks.shape[1:],
                dtype,
                num_links=links,
                label=f"reduce_scatter {key}",
            ),
            key,
        )
        total = scatter(chunks)
        self._note(began)
        return total

    def all_reduce(self, values: F32, *, axis: Axis, dtype: DType, key: str) -> F32:
        """Return the sum over the members; see `GatheredAllReduce`."""
        began = time.perf_counter()
        reduce = self._collective(
            (GatheredAllReduce, key, axis, values.shape, dtype.name),
            axis,
            lambda links: GatheredAllReduce(
                self._transport.group(axis),
                self._topology(self.size(axis)),
                values.shape,
                dtype,
                num_links=links,
                label=f"all_reduce {key}",
            ),
            key,
        )
        total = reduce(values)
        self._note(began)
        return total

    def reset(self) -> None:
        """Set the buffer index of both axes and the counters to 0."""
        self.buffer_index = dict.fromkeys(Axis, 0)
        self.host_time_s = 0.0
        self.n_calls = 0

    def free(self) -> None:
        """Release all persistent buffers."""
        for collective in self._persistent.values():
            collective.free()
        self._persistent.clear()

    def _collective(
        self,
        what: tuple[object, ...],
        axis: Axis,
        make: Callable[[int], _C],
        key: str,
    ) -> _C:
        """Return the collective bound to the buffer whose turn it is; make both at first use."""
        index = self.buffer_index[axis]
        self.buffer_index[axis] = 1 - index
        found = self._persistent.get((*what, index))
        if found is None:
            links = 1 if key in ONE_LINK else self._num_links
            # Both at once: every member binds in the same order whatever its index is.
            for slot in (0, 1):
                self._persistent[(*what, slot)] = make(links)
            found = self._persistent[(*what, index)]
        return found  # type: ignore[return-value]

    def _note(self, began: float) -> None:
        self.host_time_s += time.perf_counter() - began
        self.n_calls += 1
