"""The reductions of decode: all packed terms come to whoever adds them, and are added once.

Each term is rounded when it is packed, the sum once at the end, and nothing in between. The order
is that of the members, so all who add the same terms get the same bits.
"""

import numpy as np

from galaxy_mpi.arrays import F32
from galaxy_mpi.ccl.blocks import add_in_order, pack_blocks, unpack_blocks
from galaxy_mpi.ccl.collectives import AllGather
from galaxy_mpi.ccl.stamps import Stamping, stamp_storage
from galaxy_mpi.ccl.topology import Direct, Topology
from galaxy_mpi.dtypes import DType
from galaxy_mpi.mesh import Group, Message, Step

__all__ = ["GatheredAllReduce", "GatheredReduceScatter"]


class GatheredReduceScatter:
    """The owner of a chunk gets all terms: one round over a fabric that routes (`Direct`).

    Parameters
    ----------
    group, num_links, label
        As in `AllGather`.
    shape : tuple of int
        Shape of one chunk.
    dtype : DType
        Of the messages and of the result.
    """

    def __init__(
        self, group: Group, shape: tuple[int, ...], dtype: DType, *, num_links: int, label: str
    ) -> None:
        self._index, self._dtype = group.index, dtype
        n_bytes = dtype.packed_bytes(shape)
        boxes = group.allocate(2 * group.size * n_bytes).reshape(2, group.size, n_bytes)
        self._outbox, self._inbox = boxes
        notes, self._entries = stamp_storage(group.allocate, group.size)
        (round_,) = Direct(group.size).reduce_scatter(group.index)
        step = Step(
            tuple(Message(h.peer, self._outbox[h.chunk], notes[h.lane]) for h in round_.sends),
            tuple(Message(h.peer, self._inbox[h.lane], notes[h.lane]) for h in round_.receives),
        )
        self._exchange = group.bind([step], num_links=num_links, label=label)
        self._terms = np.empty((group.size, *shape), np.float32)
        self.n_bytes = boxes.nbytes

    def __call__(self, chunks: F32, stamping: Stamping | None = None) -> F32:
        """Return the sum of this chip's chunk, as `ReduceScatter` does: a new array."""
        exchange, dtype = self._exchange, self._dtype
        exchange.begin()
        pack_blocks(dtype, chunks, self._outbox)
        self._inbox[self._index] = self._outbox[self._index]
        if stamping is not None:
            self._entries[self._index] = stamping.enter()
        exchange.step(0)
        exchange.end()
        if stamping is not None:
            stamping.leave(self._entries)
        unpack_blocks(dtype, self._inbox, self._terms)
        return dtype.round(add_in_order(self._terms))

    def free(self) -> None:
        """Release the exchange."""
        self._exchange.free()


class GatheredAllReduce:
    """Every member gathers all terms; parameters as in `ReduceScatter`."""

    def __init__(
        self,
        group: Group,
        topology: Topology,
        shape: tuple[int, ...],
        dtype: DType,
        *,
        num_links: int,
        label: str,
    ) -> None:
        self._dtype = dtype
        self._gather = AllGather(
            group, topology, dtype.packed_bytes(shape), num_links=num_links, label=label
        )
        self._terms = np.empty((group.size, *shape), np.float32)
        self.n_bytes = self._gather.n_bytes

    def __call__(self, values: F32, stamping: Stamping | None = None) -> F32:
        """Return the sum over the group, rounded to the dtype: a new array."""
        blocks = self._gather(self._dtype.pack(values), stamping)
        unpack_blocks(self._dtype, blocks, self._terms)
        return self._dtype.round(add_in_order(self._terms))

    def free(self) -> None:
        """Release the exchange."""
        self._gather.free()
