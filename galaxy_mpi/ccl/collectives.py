"""Hop-by-hop collectives with persistent buffers: made once, used by calling, freed at the end.

Each walks a schedule of `galaxy_mpi.ccl.topology` over one group. Storage is allocated and bound
to the transport when the object is made; a call allocates no message buffer and matches none.

Results are views of that storage, or of arrays made by unpacking; where a view is returned, it is
valid until the next call of the same object.
"""

import math

import numpy as np

from galaxy_mpi.arrays import F32, Bytes
from galaxy_mpi.ccl.blocks import add_in_order, as_values, unpack_blocks
from galaxy_mpi.ccl.gathered import GatheredBlocks
from galaxy_mpi.ccl.stamps import STAMP_BYTES, Stamping, stamp_storage
from galaxy_mpi.ccl.topology import Hop, Topology
from galaxy_mpi.dtypes import FACE, DType
from galaxy_mpi.mesh import Group, Message, Step

__all__ = ["AllGather", "AllReduce", "GatherAndAdd", "ReduceScatter"]


class AllGather:
    """Every member gets every member's block of bytes, in order of the members.

    Parameters
    ----------
    group : Group
    topology : Topology
        Of ``group.size`` chips.
    n_bytes : int
        Bytes of one block, the same on all members.
    num_links : int
        Stripes of a message.
    label : str
        Said in errors.
    """

    def __init__(
        self, group: Group, topology: Topology, n_bytes: int, *, num_links: int, label: str
    ) -> None:
        self._blocks = group.allocate(group.size * n_bytes).reshape(group.size, n_bytes)
        self._mine, self._index = self._blocks[group.index], group.index
        notes, self._entries = stamp_storage(group.allocate, group.size)

        def messages(hops: tuple[Hop, ...]) -> tuple[Message, ...]:
            return tuple(Message(h.peer, self._blocks[h.chunk], notes[h.chunk]) for h in hops)

        steps = [
            Step(messages(round_.sends), messages(round_.receives))
            for round_ in topology.all_gather(group.index)
        ]
        self._n_steps = len(steps)
        self._exchange = group.bind(steps, num_links=num_links, label=label)
        self.n_bytes = self._blocks.nbytes

    def __call__(self, block: Bytes, stamping: Stamping | None = None) -> Bytes:
        """Return all blocks, shape (size, n_bytes): a view, overwritten by the next call."""
        exchange = self._exchange
        exchange.begin()
        self._mine[...] = block
        if stamping is not None:
            self._entries[self._index] = stamping.enter()
        for number in range(self._n_steps):
            exchange.step(number)
        exchange.end()
        if stamping is not None:
            stamping.leave(self._entries)
        return self._blocks

    def free(self) -> None:
        """Release the exchange."""
        self._exchange.free()


class ReduceScatter:
    """Every member gets the sum of one chunk: member i that of chunk i.

    A partial sum is rounded to ``dtype`` at every hop, because it is packed to travel; the terms
    are added in the order of the hops, so the result does not depend on who is early.

    Parameters
    ----------
    group, topology, num_links, label
        As in `AllGather`.
    shape : tuple of int
        Shape of one chunk.
    dtype : DType
        Of the messages and of the result.
    """

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
        self._index, self._shape, self._dtype = group.index, shape, dtype
        n_bytes = dtype.packed_bytes(shape)
        self._rounds = topology.reduce_scatter(group.index)
        n_boxes = sum(len(r.sends) + len(r.receives) for r in self._rounds)
        boxes = group.allocate(n_boxes * n_bytes).reshape(n_boxes, n_bytes)
        # A note says of every member when it entered, NaN if that is not known yet.
        notes, known = stamp_storage(group.allocate, n_boxes, group.size)
        self._entries = np.empty(group.size)
        free_boxes = zip(
            boxes, notes.reshape(n_boxes, group.size * STAMP_BYTES), known, strict=True
        )
        self._sends = [[(hop, *next(free_boxes)) for hop in r.sends] for r in self._rounds]
        self._receives = [[(hop, *next(free_boxes)) for hop in r.receives] for r in self._rounds]
        steps = [
            Step(
                tuple(Message(hop.peer, box, note) for hop, box, note, _ in sends),
                tuple(Message(hop.peer, box, note) for hop, box, note, _ in receives),
            )
            for sends, receives in zip(self._sends, self._receives, strict=True)
        ]
        self._exchange = group.bind(steps, num_links=num_links, label=label)
        self.n_bytes = boxes.nbytes

    def __call__(self, chunks: F32, stamping: Stamping | None = None) -> F32:
        """Return the sum of this chip's chunk.

        Parameters
        ----------
        chunks : ndarray of shape (size, *shape), float32
            This chip's term of the sum of every chunk.
        stamping : Stamping, optional
            The clock of the chip.

        Returns
        -------
        ndarray of ``shape``, values of ``dtype``
            A new array.
        """
        return self._dtype.round(self.unrounded(chunks, stamping))

    def unrounded(self, chunks: F32, stamping: Stamping | None = None) -> F32:
        """Return the sum as it is before its last rounding, for whoever packs it next."""
        exchange, dtype, entries = self._exchange, self._dtype, self._entries
        arrived: dict[tuple[int, int], F32] = {}
        exchange.begin()
        entries[...] = np.nan
        if stamping is not None:
            entries[self._index] = stamping.enter()
        for number, (sends, receives) in enumerate(zip(self._sends, self._receives, strict=True)):
            for hop, box, _, known in sends:
                box[...] = dtype.pack(self._with_mine(arrived, chunks, hop))
                known[...] = entries
            exchange.step(number)
            for hop, box, _, known in receives:
                arrived[hop.lane, hop.chunk] = dtype.unpack(box, self._shape)
                np.fmax(entries, known, out=entries)
        exchange.end()
        if stamping is not None:
            stamping.leave(entries)
        total: F32 = chunks[self._index]
        for (_lane, chunk), partial in sorted(arrived.items(), key=lambda item: item[0]):
            if chunk == self._index:
                total = partial + total
        return total

    @staticmethod
    def _with_mine(arrived: dict[tuple[int, int], F32], chunks: F32, hop: Hop) -> F32:
        partial, mine = arrived.pop((hop.lane, hop.chunk), None), chunks[hop.chunk]
        total: F32 = mine if partial is None else partial + mine
        return total

    def free(self) -> None:
        """Release the exchange."""
        self._exchange.free()


class AllReduce:
    """All-reduce as reduce-scatter and all-gather: 2 (n - 1) hops of 1/n of the data.

    The tensor is cut along its last dim; columns are padded with zeros to whole chunks.

    Parameters
    ----------
    group, num_links, label
        As in `AllGather`.
    scatter : Topology
        Of the first half.
    gather : Topology or None
        Of the second half; None: blocks go to everybody at once.
    shape : tuple of int
        Shape of the tensor.
    dtype : DType
        Of the messages and of the result.
    """

    def __init__(
        self,
        group: Group,
        scatter: Topology,
        gather: Topology | None,
        shape: tuple[int, ...],
        dtype: DType,
        *,
        num_links: int,
        label: str,
    ) -> None:
        self._shape, self._dtype, self._size = shape, dtype, group.size
        rows, columns = math.prod(shape[:-1]), shape[-1]
        # 16 values share an exponent: a chunk that began inside a block would round otherwise.
        self._chunk = (rows, -(-columns // (FACE * group.size)) * FACE)
        self._scatter = ReduceScatter(
            group, scatter, self._chunk, dtype, num_links=num_links, label=label
        )
        n_bytes = dtype.packed_bytes(self._chunk)
        self._gather: AllGather | GatheredBlocks = (
            GatheredBlocks(group, n_bytes, num_links=num_links, label=label)
            if gather is None
            else AllGather(group, gather, n_bytes, num_links=num_links, label=label)
        )
        self.n_bytes = self._scatter.n_bytes + self._gather.n_bytes

    def __call__(self, values: F32, stamping: Stamping | None = None) -> F32:
        """Return the sum over the group, of ``dtype``: a new array."""
        rows, width = self._chunk
        columns = self._shape[-1]
        wide = values.reshape(rows, columns)
        if columns < self._size * width:
            wide = np.zeros((rows, self._size * width), np.float32)
            wide[:, :columns] = values.reshape(rows, columns)
        terms = wide.reshape(rows, self._size, width).swapaxes(0, 1)
        mine = self._scatter.unrounded(terms, stamping)
        blocks = self._gather(self._dtype.pack(mine), stamping)
        chunks = np.empty((self._size, rows, width), np.float32)
        unpack_blocks(self._dtype, blocks, chunks)
        total = chunks.swapaxes(0, 1).reshape(rows, -1)[:, :columns]
        return np.ascontiguousarray(total).reshape(self._shape)

    def free(self) -> None:
        """Release the exchanges."""
        self._scatter.free()
        self._gather.free()


class GatherAndAdd:
    """All-reduce as an all-gather of whole tensors, which every member adds.

    Parameters
    ----------
    group, topology, shape, dtype, num_links, label
        As in `AllReduce`.
    """

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
        return self._dtype.round(add_in_order(as_values(self._dtype, blocks, self._terms)))

    def free(self) -> None:
        """Release the exchange."""
        self._gather.free()
