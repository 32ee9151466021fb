"""The collectives of one chip, with the buffers they use (`galaxy_mpi.ccl.buffers`).

A mode has its own kind: `DecodeCCL` here gathers packed terms in one round,
`galaxy_mpi.ccl.prefill_ccl.PrefillCCL` goes hop by hop, and so does
`galaxy_mpi.ccl.separate_ccl.SeparateCCL` in both modes.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import numpy as np

from galaxy_mpi.arrays import F32, Bytes
from galaxy_mpi.ccl.blocks import unpack_blocks
from galaxy_mpi.ccl.buffers import Bound, Buffers, PersistentBuffers
from galaxy_mpi.ccl.gathered import GatheredBlocks, GatheredReduceScatter, all_reduce_at_once
from galaxy_mpi.ccl.stamps import Stamper, Stamping
from galaxy_mpi.ccl.topology import Topology
from galaxy_mpi.dtypes import DType
from galaxy_mpi.mesh import Axis, Group, Transport

__all__ = ["CCL", "BufferKey", "DecodeCCL", "Note", "Wiring"]

Wiring = Callable[[int], Topology]
"""Makes the topology of a group from its size."""

Note = Callable[[str, Axis, float, float], None]


class BufferKey:
    """Names of the persistent buffers (tt-metal, llama_ccl.py, gives most of them)."""

    LAYERNORM = "LAYERNORM"
    QKV = "QKV"
    CREATE_HEADS = "CREATE_HEADS"
    CONCAT_HEADS = "CONCAT_HEADS"
    SDPA = "SDPA"
    SDPA_REVERSE = "SDPA_REVERSE"
    WO = "WO"
    FF1 = "FF1"
    FF3 = "FF3"
    GATE_UP = "GATE_UP"
    BINARY_MUL = "BINARY_MUL"
    FF2 = "FF2"
    LM_HEAD = "LM_HEAD"
    SAMPLING_VALUES = "SAMPLING_VALUES"
    SAMPLING_INDICES = "SAMPLING_INDICES"
    LOGITS = "LOGITS"
    """Of the whole vocabulary, for callers in Python: no op of the device."""


ONE_LINK = frozenset({BufferKey.LAYERNORM, BufferKey.SAMPLING_VALUES, BufferKey.SAMPLING_INDICES})
"""Collectives so small that the system gives them one link whatever the machine has."""


class Gathering(Bound, Protocol):
    """An all-gather."""

    def __call__(self, block: Bytes, stamping: Stamping | None, /) -> Bytes: ...


class Reduction(Bound, Protocol):
    """A reduce-scatter or an all-reduce."""

    def __call__(self, values: F32, stamping: Stamping | None, /) -> F32: ...


_C = TypeVar("_C", bound=Bound)
_What = tuple[Any, ...]
_Shape = tuple[int, ...]


class CCL(ABC):
    """Collectives of one chip over its row and its column.

    Parameters
    ----------
    transport : Transport
    num_links : int
        Links between neighbours: 4 on the 6U Galaxy, 3 on the 4U.
    clock : Stamper, optional
        The chip's device clock, whose time travels with the data.
    note : callable, optional
        Called with (key, axis, begin, end) of each collective, in seconds of the host's clock.
    buffers : type of Buffers

    Attributes
    ----------
    buffers : Buffers
    host_time_s : float
        Seconds of host time spent in collectives: copying, packing and waiting.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        num_links: int = 4,
        clock: Stamper | None = None,
        note: Note | None = None,
        buffers: type[Buffers] = PersistentBuffers,
    ) -> None:
        self._transport, self._num_links = transport, num_links
        self._clock, self._note = clock, note
        self.buffers = buffers(transport)
        self.host_time_s = 0.0

    def size(self, axis: Axis) -> int:
        """Return the number of chips along ``axis``."""
        return self._transport.group(axis).size

    def index(self, axis: Axis) -> int:
        """Return this chip's place along ``axis``."""
        return self._transport.group(axis).index

    def all_gather_bytes(
        self, block: Bytes, *, axis: Axis, key: str, stamped: bool = True
    ) -> Bytes:
        """Return every member's block.

        Parameters
        ----------
        block : ndarray of shape (n,), uint8
            As many bytes on every member.
        axis : Axis
        key : str
            Name of the buffer, of `BufferKey`.
        stamped : bool
            Whether this is what the chip's clock is charged for: a further slab of one op is not.

        Returns
        -------
        ndarray of shape (size, n), uint8
            A view of the buffer: valid until the next collective on this axis.
        """
        began = time.perf_counter()
        gather = self._collective(
            ("all_gather", key, axis, len(block)),
            lambda group, links: self._make_all_gather(
                group, len(block), num_links=links, label=f"all_gather {key}"
            ),
        )
        blocks = gather(block, self._stamping(key, axis, stamped))
        self._ended(key, axis, began)
        return blocks

    def all_gather(
        self, values: F32, *, axis: Axis, dtype: DType, key: str, stamped: bool = True
    ) -> F32:
        """Return every member's values, rounded to ``dtype``: a new array (size, *shape)."""
        blocks = self.all_gather_bytes(dtype.pack(values), axis=axis, key=key, stamped=stamped)
        began = time.perf_counter()
        gathered = np.empty((len(blocks), *values.shape), np.float32)
        unpack_blocks(dtype, blocks, gathered)
        self.host_time_s += time.perf_counter() - began
        return gathered

    def reduce_scatter(
        self, chunks: F32, *, axis: Axis, dtype: DType, key: str, stamped: bool = True
    ) -> F32:
        """Return the sum of this chip's chunk: a new array, values of ``dtype``.

        Parameters
        ----------
        chunks : ndarray of shape (size, ...), float32
            ``chunks[i]`` is this chip's term of what member i is to get.
        axis, dtype, key, stamped
            As in `all_gather_bytes`.
        """
        shape, label = chunks.shape[1:], f"reduce_scatter {key}"
        return self._reduce(
            ("reduce_scatter", key, axis, shape, dtype.name),
            lambda group, links: self._make_reduce_scatter(
                group, shape, dtype, num_links=links, label=label
            ),
            chunks,
            stamped,
        )

    def all_reduce(
        self, values: F32, *, axis: Axis, dtype: DType, key: str, stamped: bool = True
    ) -> F32:
        """Return the sum over the members: a new array, values of ``dtype``."""
        shape, label = values.shape, f"all_reduce {key}"
        return self._reduce(
            ("all_reduce", key, axis, shape, dtype.name),
            lambda group, links: self._make_all_reduce(
                group, shape, dtype, num_links=links, label=label
            ),
            values,
            stamped,
        )

    @abstractmethod
    def _make_all_gather(
        self, group: Group, n_bytes: int, *, num_links: int, label: str
    ) -> Gathering:
        """Return the mode's all-gather of blocks of ``n_bytes``."""

    @abstractmethod
    def _make_reduce_scatter(
        self, group: Group, shape: _Shape, dtype: DType, *, num_links: int, label: str
    ) -> Reduction:
        """Return the mode's reduce-scatter of chunks of ``shape``."""

    @abstractmethod
    def _make_all_reduce(
        self, group: Group, shape: _Shape, dtype: DType, *, num_links: int, label: str
    ) -> Reduction:
        """Return the mode's all-reduce of ``shape``."""

    def free(self) -> None:
        """Release all buffers and start again with index 0: the mode is over."""
        self.buffers.free()

    def _reduce(
        self,
        what: _What,
        make: Callable[[Group, int], Reduction],
        values: F32,
        stamped: bool,
    ) -> F32:
        began = time.perf_counter()
        _, key, axis = what[:3]
        total = self._collective(what, make)(values, self._stamping(key, axis, stamped))
        self._ended(key, axis, began)
        return total

    def _ended(self, key: str, axis: Axis, began: float) -> None:
        now = time.perf_counter()
        self.host_time_s += now - began
        if self._note is not None:
            self._note(key, axis, began, now)

    def _stamping(self, key: str, axis: Axis, stamped: bool) -> Stamping | None:
        if self._clock is None or not stamped:
            return None
        return Stamping(self._clock, key, axis)

    def _collective(self, what: _What, make: Callable[[Group, int], _C]) -> _C:
        """Return the collective for a call; ``what`` as in `galaxy_mpi.ccl.buffers`."""
        links = 1 if what[1] in ONE_LINK else self._num_links
        return self.buffers.get(what, lambda group: make(group, links))


class DecodeCCL(CCL):
    """All packed terms come to whoever adds them, and are added once, in the members' order."""

    def _make_all_gather(
        self, group: Group, n_bytes: int, *, num_links: int, label: str
    ) -> Gathering:
        return GatheredBlocks(group, n_bytes, num_links=num_links, label=label)

    def _make_reduce_scatter(
        self, group: Group, shape: _Shape, dtype: DType, *, num_links: int, label: str
    ) -> Reduction:
        return GatheredReduceScatter(group, shape, dtype, num_links=num_links, label=label)

    def _make_all_reduce(
        self, group: Group, shape: _Shape, dtype: DType, *, num_links: int, label: str
    ) -> Reduction:
        return all_reduce_at_once(group, shape, dtype, num_links=num_links, label=label)
