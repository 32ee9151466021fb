"""Prefill: causal attention of the new tokens, over a cached prefix if there is one."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from galaxy_mpi.arrays import F32
from galaxy_mpi.ccl.wire import BufferKey, Kind, Wire
from galaxy_mpi.dtypes import padded
from galaxy_mpi.mesh import Axis
from galaxy_mpi.program import Charge, Cuts, Kernel, Tensor
from galaxy_mpi.systems.chip import ChipBinder, StepInputs
from galaxy_mpi.systems.kv_cache import KVCache
from galaxy_mpi.systems.modules import put
from galaxy_mpi.systems.ops.prefill_base import PrefillOp
from galaxy_mpi.systems.prefill_pass import causal_pairs, query_chunks

if TYPE_CHECKING:
    from galaxy_mpi.timing.costs import Costs

__all__ = ["PrefillAttention", "RingPrefillAttention"]


SHORT_CHUNK, LONG_CHUNK, LONG_FROM = 64, 256, 2048
"""Queries of a chunk, and the sequence from which it is the longer one."""


class PrefillAttention(PrefillOp):
    """Every query on every column; with a cached prefix, only the column that holds it attends.

    The other columns' results are zeros, and all are summed over the columns. (The device computes
    and masks them; the host does not compute them.)
    """

    name = "attention"

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return this row's concatenated heads, (S, N/R * H), the same on all columns."""
        inputs = (q, k, v, q.program.layer)
        (mixed,) = self.record(q.program, inputs, mixed=(self.rows, self.shape.mixed))
        return mixed

    def cuts(self) -> Cuts:
        """Return the sharding of its outputs."""
        return {"mixed": ((), (Axis.COLUMN,))}

    @property
    def _sum(self) -> Wire:
        dtype = self.formats.attention  # adding zeros is exact in any format
        return self.sum_wire(BufferKey.SDPA, Axis.ROW, self.shape.mixed, dtype)

    def wires(self) -> tuple[Wire, ...]:
        """Return the sum over the columns, if a prefix is cached."""
        return (self._sum,) if self.work.start else ()

    def charges(self, costs: "Costs") -> Iterator[Charge]:
        """Causal work of every query; then a sum if a prefix is cached."""
        work = self.work
        seen = slice(work.start, work.start + work.length)
        pairs = work.n_parts * causal_pairs([seen])
        yield self._attend(costs, pairs, self.device_rows)
        if work.start:
            yield from self.reduce_charges(costs, self._sum, "all_reduce_attention")
        yield from self._concat(costs)

    def _attend(self, costs: "Costs", pairs: float, queries: int) -> Kernel:
        """Return the charge of attention over so many query-key pairs, for all heads."""
        shape, work, precision = self.shape, self.work, self.precision
        keys = work.start + self.device_rows
        width = shape.kv_heads * shape.head_dim
        n_bytes = self.formats.attention.packed_bytes((padded(2 * queries), padded(shape.mixed)))
        n_bytes += precision.kv_cache.packed_bytes((padded(2 * keys), padded(width)))
        seconds = costs.prefill_attention_s(
            pairs,
            queries,
            shape.heads,
            shape.head_dim,
            self.attention_peak(costs),
            n_bytes,
            chunk=self._chunk,
            passes=self._passes(costs),
            tile_bytes=precision.kv_cache.tile_bytes,
        )
        return Kernel("attention", seconds, costs.machine.prefill_cores)

    @property
    def _chunk(self) -> int:
        """Queries that a core works on at a time (``SDPA_PROGCFG``)."""
        return LONG_CHUNK if self.work.length >= LONG_FROM else SHORT_CHUNK

    def _passes(self, costs: "Costs") -> float:
        """Return the passes over a tile of scores."""
        return costs.machine.generic_softmax_passes

    def _concat(self, costs: "Costs") -> Iterator[Charge]:
        elements = self.device_rows * self.shape.mixed
        yield from self.vector(costs, "concat_heads", elements, passes=1)

    def queries(self, chip: ChipBinder, q: F32) -> F32:
        """Bind the cast of the queries to the format that attention reads."""
        if self.formats.queries is self.formats.rotary:
            return q
        out = chip.array(*q.shape)
        chip.call(np.copyto, out, q)
        chip.round(self.formats.queries, out)
        return out

    def bind(self, chip: ChipBinder, q: F32, k: F32, v: F32, layer: int) -> F32:
        """Attend user by user, or over the cached prefix and the new tokens."""
        attending = _Attending(chip, self, layer)
        q, mixed = self.queries(chip, q), chip.array(self.rows, self.shape.mixed)
        if self.work.start == 0:
            chip.call(attending.every_query, q, k, v, mixed)
            chip.round(self.formats.attention, mixed)
            return mixed
        reduced = chip.collective(self._sum)
        if self.work.columns[0] == chip.col:
            chip.call(attending.behind_prefix, q, k, v, mixed)
            chip.round(self.formats.attention, mixed)
            chip.call(np.copyto, reduced.term, mixed)
        else:
            chip.call(reduced.term.fill, 0)
        total: F32 = reduced.cross()
        return total


class RingPrefillAttention(PrefillAttention):
    """Galaxy: queries of long prompts are sharded over the columns.

    Every column has all keys and values. Of 2 C chunks of the queries, column i takes chunk i and
    chunk i from the back, so that causal work is equal. The early halves are gathered in the order
    of the columns, the late halves in reverse.

    References
    ----------
    .. [1] tt-metal, llama_attention.py, ``ring_distributed_scaled_dot_product_attention``.
    """

    @property
    def _n_columns(self) -> int:
        return self.site.size(Axis.ROW)

    @property
    def _is_distributed(self) -> bool:
        return self.work.is_distributed(self._n_columns)

    @property
    def _chunk(self) -> int:
        """Behind a cached prefix, a page (``SDPA_PROGCFG_FLEXIBLE_CHUNK``)."""
        return SHORT_CHUNK if self.work.start else super()._chunk

    def _passes(self, costs: "Costs") -> float:
        return costs.machine.softmax_passes

    def _half(self, key: str) -> Wire:
        shape = (self.work.length // (2 * self._n_columns), self.shape.mixed)
        dtype = self.formats.attention
        return Wire(key, Axis.ROW, Kind.ALL_GATHER, dtype, shape)

    def wires(self) -> tuple[Wire, ...]:
        """Return the gathers of the early and of the late halves."""
        if not self._is_distributed:
            return super().wires()
        return (self._half(BufferKey.SDPA), self._half(BufferKey.SDPA_REVERSE))

    def charges(self, costs: "Costs") -> Iterator[Charge]:
        """This column's queries, then two gathers."""
        if not self._is_distributed:
            yield from super().charges(costs)
            return
        chunks = query_chunks(self.work.length, self._n_columns, 0)
        queries = self.work.length // self._n_columns
        yield self._attend(costs, causal_pairs(chunks), queries)
        for key in (BufferKey.SDPA, BufferKey.SDPA_REVERSE):
            yield from self.cross(costs, self._half(key), name="all_gather_attention")
        yield from self._concat(costs)

    def bind(self, chip: ChipBinder, q: F32, k: F32, v: F32, layer: int) -> F32:
        """Attend with this column's chunks of the queries, then gather all results."""
        if not self._is_distributed:
            return super().bind(chip, q, k, v, layer)
        attending = _Attending(chip, self, layer)
        length, n_columns = self.work.length, self._n_columns
        q, mixed = self.queries(chip, q), chip.array(length, self.shape.mixed)
        halves = np.split(mixed, 2)
        chunks = query_chunks(length, n_columns, chip.col)
        keys = (BufferKey.SDPA, BufferKey.SDPA_REVERSE)
        for half, (key, chunk) in enumerate(zip(keys, chunks, strict=True)):
            gathered = chip.collective(self._half(key))
            chip.call(attending.chunk, q, k, v, chunk, gathered.term)
            of_columns = gathered.cross()[:: -1 if half else 1]
            target = halves[half].reshape(of_columns.shape)
            chip.call(np.copyto, target, of_columns)
        return mixed[: self.rows]


class _Attending:
    """The attention of one layer on one chip.

    Parameters
    ----------
    chip : ChipBinder
    op : PrefillAttention
    layer : int
    """

    def __init__(self, chip: ChipBinder, op: PrefillAttention, layer: int) -> None:
        self._cache: KVCache = chip.state.caches[layer]
        self._inputs: StepInputs = chip.inputs
        self._parts = op.work.parts
        self._attend = op.site.modules.attention(layer, chip.state)
        precision = op.precision
        self._fidelity = precision.attention_fidelity("prefill") if precision.cuts_inputs else None
        self._cuts_cache = self._fidelity is not None and not self._fidelity.reads_whole(
            precision.kv_cache
        )

    def every_query(self, q: F32, k: F32, v: F32, out: F32) -> None:
        """Attend with all queries, user by user, with nothing cached."""
        q, k, v = self._read(q, k, v)
        k_KTH, v_KTH = _by_head(k), _by_head(v)
        for user, rows in enumerate(self._parts):
            keys, values = k_KTH[:, rows], v_KTH[:, rows]
            self._prefill(user, q[rows], keys, values, 0, out[rows])

    def chunk(self, q: F32, k: F32, v: F32, chunk: slice, out: F32) -> None:
        """Attend with some queries; device rows that are not on the host are zeros."""
        queries = q[chunk]
        out[len(queries) :] = 0
        if len(queries):
            queries, k, v = self._read(queries, k, v)
            target = out[: len(queries)]
            self._prefill(0, queries, _by_head(k), _by_head(v), chunk.start, target)

    def behind_prefix(self, q: F32, k: F32, v: F32, out: F32) -> None:
        """Attend to cached and new positions of the only user."""
        (user,) = self._inputs.pass_now.users
        n_blocks = user.start // self._cache.page_size
        k_cached, v_cached = self._cache.read(user.blocks[:n_blocks])
        q, k, v = self._read(q, k, v)
        _, k_cached, v_cached = self._read(q, k_cached, v_cached)
        k_KTH = np.concatenate([k_cached, _by_head(k)], axis=1)
        v_KTH = np.concatenate([v_cached, _by_head(v)], axis=1)
        self._prefill(0, q, k_KTH, v_KTH, user.start, out)

    def _prefill(self, user: int, q: F32, k: F32, v: F32, start: int, out: F32) -> None:
        """Attend with the queries of a user; ``out`` holds concatenated heads."""
        who, attend = self._inputs.pass_now.users[user], self._attend
        attend.n_tokens = who.start + len(who.tokens)
        put(out.reshape(q.shape), attend.prefill(q, k, v, start=start), attend, "prefill")

    def _read(self, q: F32, k: F32, v: F32) -> tuple[F32, F32, F32]:
        """Return queries, keys and values as attention reads them, given its fidelity."""
        fidelity = self._fidelity
        if fidelity is None:
            return q, k, v
        if self._cuts_cache:
            k, v = fidelity.weight(k), fidelity.weight(v)
        return fidelity.activation(q), k, v


def _by_head(values_SKH: F32) -> F32:
    return np.ascontiguousarray(values_SKH.swapaxes(0, 1))
