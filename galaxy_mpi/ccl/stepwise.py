"""Reduce-scatter hop by hop over a `Ring` or a `Line`.

A partial sum is rounded at every hop, because it is packed to be sent. Terms are added in the order
of the hops, so the result does not depend on timing. Every hop writes straight to the box of the
next chip.
"""

from functools import cache

import numpy as np

from galaxy_mpi.arrays import F32, Bytes
from galaxy_mpi.ccl.builder import Builder
from galaxy_mpi.ccl.calls import chunks_of, dtype_of, round_in_place, whole_shape
from galaxy_mpi.ccl.rows import MakeTopology
from galaxy_mpi.ccl.topology import Hop
from galaxy_mpi.ccl.wire import Wire
from galaxy_mpi.dtypes import FLOAT32
from galaxy_mpi.mesh.plane import Boxes, GroupRounds, RoundPeers

__all__ = ["StepwiseReduceScatter"]


class StepwiseReduceScatter:
    """A reduce-scatter in which the sum of a chunk grows on its way to its owner.

    Parameters
    ----------
    builder, wire, by_rows, is_rounded
        As in `galaxy_mpi.ccl.direct.DirectReduceScatter`.
    make_topology : MakeTopology
    """

    def __init__(
        self,
        builder: Builder,
        wire: Wire,
        *,
        make_topology: MakeTopology,
        by_rows: bool,
        is_rounded: bool = True,
    ) -> None:
        self._builder, self._wire = builder, wire
        self._is_rounded = is_rounded
        plane = builder.plane(wire.axis)
        size, self._index = plane.size, builder.index(wire.axis)
        self.term = builder.array(*whole_shape(wire, size, by_rows=by_rows))
        self._chunks = chunks_of(self.term, wire, size, by_rows=by_rows)
        topology = make_topology(size)
        self._rounds = topology.reduce_scatter(self._index)
        self._boxes: Boxes | None = None
        if size > 1:
            label, rounds = builder.label(wire), _group_rounds(make_topology, size)
            self._boxes = plane.boxes(builder.rank, label, wire.sent_bytes, rounds)

    def cross(self, out: F32 | None = None) -> F32:
        """Add the hops; return this chip's chunk of the sum, in ``out`` if given."""
        builder, wire, boxes = self._builder, self._wire, self._boxes
        if boxes is None:
            if out is None:
                out = self.term
            else:
                builder.call(np.copyto, out, self.term)
        else:
            out = builder.array(*wire.sent) if out is None else out
            self._hops(boxes, out)
        if self._is_rounded:
            round_in_place(builder, dtype_of(wire), out)
        return out

    def _hops(self, boxes: Boxes, out: F32) -> None:
        builder, wire = self._builder, self._wire
        sums: _PlainSums | _PackedSums
        sums = _PlainSums(builder) if wire.dtype is FLOAT32 else _PackedSums(builder, wire)
        came: dict[tuple[int, int], Bytes] = {}
        for number, of_round in enumerate(self._rounds):
            for k, hop in enumerate(of_round.sends):
                box = came.pop((hop.lane, hop.chunk), None)
                sums.pass_on(box, self._chunks[hop.chunk], boxes.sends[number][k])
            builder.cross(boxes.crossings[number])
            for k, hop in enumerate(of_round.receives):
                came[hop.lane, hop.chunk] = boxes.receives[number][k]
        assert {chunk for _, chunk in came} == {self._index}
        sums.end([came[lane] for lane in sorted(came)], self._chunks[self._index], out)


@cache
def _group_rounds(make_topology: MakeTopology, size: int) -> GroupRounds:
    """Return the rounds of all members, once for all collectives over such a topology."""
    return tuple(
        tuple(RoundPeers(_peers(r.sends), _peers(r.receives)) for r in rounds)
        for rounds in map(make_topology(size).reduce_scatter, range(size))
    )


def _peers(hops: tuple[Hop, ...]) -> tuple[int, ...]:
    return tuple(hop.peer for hop in hops)


class _PlainSums:
    """Partial sums in float32, added in place."""

    def __init__(self, builder: Builder) -> None:
        self._call = builder.call

    def pass_on(self, inbox: Bytes | None, mine: F32, outbox: Bytes) -> None:
        """Add this chip's term on the way to the next."""
        target = _plain(outbox, mine)
        if inbox is None:
            self._call(np.copyto, target, mine)
        else:
            self._call(np.add, _plain(inbox, mine), mine, target)

    def end(self, inboxes: list[Bytes], mine: F32, out: F32) -> None:
        """Add the partial sums from both sides to this chip's term."""
        for inbox in inboxes:
            self._call(np.add, _plain(inbox, out), mine, out)
            mine = out


def _plain(box: Bytes, like: F32) -> F32:
    return box.view(np.float32).reshape(like.shape)


class _PackedSums:
    """Partial sums that are unpacked and packed at every hop."""

    def __init__(self, builder: Builder, wire: Wire) -> None:
        self._call, self._codec = builder.call, builder.codec(dtype_of(wire), wire.sent)
        self._partial = builder.array(*wire.sent)

    def pass_on(self, inbox: Bytes | None, mine: F32, outbox: Bytes) -> None:
        """Add this chip's term on the way to the next."""
        if inbox is None:
            self._call(self._codec.pack, mine, outbox)
            return
        partial = self._partial
        self._call(self._codec.unpack, inbox, partial)
        self._call(np.add, partial, mine, partial)
        self._call(self._codec.pack, partial, outbox)

    def end(self, inboxes: list[Bytes], mine: F32, out: F32) -> None:
        """Add the partial sums from both sides to this chip's term."""
        for inbox in inboxes:
            self._call(self._codec.unpack, inbox, self._partial)
            self._call(np.add, self._partial, mine, out)
            mine = out
