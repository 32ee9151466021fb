"""Attention of a decode step over the paged cache; users are grouped by cache length.

The cache stays packed: keys and values are unpacked for a few users and heads at a time.
"""

import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from galaxy_mpi.arrays import F32, Bytes, Call, Ints
from galaxy_mpi.dtypes import FLOAT32
from galaxy_mpi.kernels.attention import attention_calls, future_mask
from galaxy_mpi.systems.kv_cache import KVCache, PageTable, read_size
from galaxy_mpi.systems.modules import Attention, put
from galaxy_mpi.systems.precision import Precision
from galaxy_mpi.systems.workspace import Workspace

if TYPE_CHECKING:
    from galaxy_mpi.systems.chip import StepInputs

__all__ = ["AttentionStep", "LayersAttention", "Part"]

_UNPACKED_BYTES = 1 << 20
"""Limit of unpacked keys and values in float32: about the size of a core's L2 cache."""


@dataclass(slots=True)
class Part:
    """Users and kv heads that are attended to at once, with the arrays for them."""

    places: Ints
    users: slice | Ints
    """As ``places``, but a slice if they are adjacent."""
    heads: slice
    kv_heads: slice
    is_whole: bool
    """Whether these are all kv heads of the chip."""
    runs: Ints
    rows: Bytes
    """Their packed keys and values, (K, G, n, run, 2, row bytes)."""
    unpack: Callable[[], object] | None
    """Unpacks ``rows`` into ``k`` and ``v``; None if these are views of ``rows``."""
    k: F32
    v: F32
    scaled: F32
    scores: F32
    bounds: F32
    """The greatest score, then the sum, of each head."""
    future: F32
    """See `future_mask`."""


class AttentionStep:
    """The attention of one layer.

    Parameters
    ----------
    cache : KVCache
    layers : LayersAttention
        Of all layers that have the same arrays and formats.
    """

    def __init__(self, cache: KVCache, layers: "LayersAttention") -> None:
        n_kv, n_blocks, page, _, row_bytes = cache.rows.shape
        size = read_size(page)
        self._runs = cache.rows.reshape(n_kv, n_blocks * page // size, size, 2, row_bytes)
        self._layers = layers.shared()

    def attend(self) -> None:
        """Attend to the cache up to each user's position; idle users get zeros."""
        layers = self._layers
        if layers.table is not layers.inputs.table:
            layers.prepare()
        if layers.has_idle:
            layers.out.fill(0)
        for part, calls in layers.prepared:
            runs = self._runs if part.is_whole else self._runs[part.kv_heads]
            runs.take(part.runs, 1, part.rows, "clip")
            for call, arguments in calls:
                call(*arguments)


class LayersAttention:
    """The attention of all layers of a program that have the same arrays and formats.

    Which users and heads are attended to at once, and the calls for it, are the same in all layers
    of a step. They are therefore prepared once per step.

    Parameters
    ----------
    cache : KVCache
        Of one of the layers.
    inputs : StepInputs
        Its ``table`` is the page table of the users.
    precision : Precision
        Of the layers.
    attend : Attention
    workspace : Workspace
    q_BNH, out_BNH : ndarray of shape (B, N, H)
        Queries of every step, and where the results go.

    Attributes
    ----------
    table : PageTable or None
        Of the step that ``prepared`` is for.
    has_idle : bool
        Whether there are users without a position.
    prepared : list of (Part, list of Call)
        The calls follow the reading of the part's rows.
    """

    def __init__(
        self,
        cache: KVCache,
        inputs: "StepInputs",
        precision: Precision,
        attend: Attention,
        workspace: Workspace,
        q_BNH: F32,
        out_BNH: F32,
    ) -> None:
        self.inputs, self.q, self.out = inputs, q_BNH, out_BNH
        self._workspace, self._attend = workspace, attend
        self._is_default = type(attend) is Attention
        self._is_plain = cache.dtype is FLOAT32
        self._dtype, self._head_dim = cache.dtype, cache.head_dim
        n_kv, _, page, _, row_bytes = cache.rows.shape
        self._n_kv, self._size, self._row_bytes = n_kv, read_size(page), row_bytes
        self._mask = self._cache_mask = None
        if precision.cuts_inputs:
            fidelity = precision.attention_fidelity("decode")
            self._mask = fidelity.activation_mask
            if not fidelity.reads_whole(precision.kv_cache):
                self._cache_mask = fidelity.weight_mask
        masks = self._mask, self._cache_mask
        self._kind = id(workspace), cache.dtype, cache.head_dim, n_kv, self._is_default, masks
        self._key = (self._kind, id(inputs), *map(_memory_of, (q_BNH, out_BNH)))
        self.table: PageTable | None = None
        self.has_idle = False
        self.prepared: list[tuple[Part, list[Call]]] = []

    def shared(self) -> "LayersAttention":
        """Return the one that was made first of those that may be shared."""
        if not self._is_default:  # a user's class may have a state for each layer
            return self
        return self._workspace.layers.setdefault(self._key, self)

    def prepare(self) -> None:
        """Prepare the calls of a step."""
        self.table = self.inputs.table
        self.has_idle = len(self._table.active) < len(self.q)
        parts = self._parts_of(self.q.shape)
        self.prepared = [(part, self._calls(part, self.q, self.out)) for part in parts]

    @property
    def _table(self) -> PageTable:
        assert self.table is not None
        return self.table

    def _parts_of(self, shape: tuple[int, ...]) -> "list[Part]":
        """Return the parts of a step; chips and layers of equal shapes share them."""
        key, known = (self._kind, shape), self._table.parts
        if key not in known:
            known[key] = list(self._parts(shape))
        return known[key]

    def _parts(self, shape: tuple[int, ...]) -> Iterator[Part]:
        """Yield as many users of one length at once as fit the processor's cache.

        A user's result does not depend on the other users, nor a head's on other heads.
        """
        n_kv, size = self._n_kv, self._size
        per_kv = shape[1] // n_kv
        for places, runs_GN in self._table.same_length:
            head_bytes = 2 * runs_GN.shape[1] * size * self._head_dim * 4
            n_users = max(1, _UNPACKED_BYTES // (n_kv * head_bytes))
            n_heads = n_kv
            if self._is_default and n_users == 1:
                n_heads = max(1, _UNPACKED_BYTES // head_bytes)
            for first in range(0, len(places), n_users):
                users = slice(first, first + n_users)
                for head in range(0, n_kv, n_heads):
                    kv_heads = slice(head, min(head + n_heads, n_kv))
                    yield self._part(places[users], runs_GN[users], kv_heads, per_kv)

    def _part(self, places: Ints, runs: Ints, kv_heads: slice, per_kv: int) -> Part:
        space, head_dim = self._workspace, self._head_dim
        size, row_bytes = self._size, self._row_bytes
        n_kv = kv_heads.stop - kv_heads.start
        n_users, n_runs = runs.shape
        rows = space.bytes("rows", n_kv, n_users, n_runs, size, 2, row_bytes)
        unpack = None
        if self._is_plain:
            both = rows.view(np.float32)
        else:
            n_rows = n_kv * n_users * n_runs * size * 2
            both = space.values("both", n_rows, head_dim)
            codec = space.row_codec(self._dtype, n_rows, head_dim)
            unpack = partial(codec.unpack, rows.reshape(n_rows, row_bytes), both)
        both = both.reshape(n_kv, n_users, n_runs * size, 2, head_dim).swapaxes(0, 1)
        n_shared = n_users if self._is_default else 0  # a user's class has arrays of its own
        adjacent = int(places[-1]) - int(places[0]) + 1 == n_users
        return Part(
            places,
            slice(int(places[0]), int(places[-1]) + 1) if adjacent else places,
            slice(kv_heads.start * per_kv, kv_heads.stop * per_kv),
            kv_heads,
            n_kv == self._n_kv,
            runs,
            rows,
            unpack,
            both[..., 0, :],
            both[..., 1, :],
            space.values("queries", n_shared, n_kv, per_kv, head_dim),
            space.values("scores", n_shared, n_kv, per_kv, n_runs * size),
            space.values("bounds", n_shared, n_kv, per_kv, 1),
            future_mask(self._table.positions_B[places], n_runs * size),
        )

    def _calls(self, part: Part, q_BNH: F32, out_BNH: F32) -> list[Call]:
        """Return the calls that attend with one part, once its rows are taken."""
        calls: list[Call] = [] if part.unpack is None else [(part.unpack, ())]
        place = part.users, part.heads
        q, out, k, v = q_BNH[place], out_BNH[place], part.k, part.v
        is_view = isinstance(part.users, slice)
        if not is_view:  # indexing has copied the values that are there now
            calls.append((_read, (q, q_BNH, place)))
        if self._mask is not None:
            cut = np.empty(q.shape, np.float32)
            calls.append((np.bitwise_and, (q.view(np.uint32), self._mask, cut.view(np.uint32))))
            q = cut
        if self._cache_mask is not None:
            for values in (k.view(np.uint32), v.view(np.uint32)):
                calls.append((np.bitwise_and, (values, self._cache_mask, values)))
        if self._is_default:
            bounds, future = part.bounds, part.future
            calls += attention_calls(q, k, v, future, part.scaled, part.scores, bounds, out)
        else:
            calls.append((self._decode, (out, q, k, v, part.places)))
        if not is_view:
            calls.append((operator.setitem, (out_BNH, place, out)))
        return calls

    def _decode(self, out: F32, q: F32, k: F32, v: F32, places: Ints) -> None:
        """Attend with a user's class."""
        positions = self._table.positions_B[places]
        put(out, self._attend.decode(q, k, v, positions), self._attend, "decode")


def _memory_of(array: F32) -> tuple[object, ...]:
    """Return what is equal for views of the same memory with the same shape and strides."""
    return array.__array_interface__["data"], array.shape, array.strides


def _read(to: F32, values: F32, place: tuple[slice | Ints, slice]) -> None:
    to[...] = values[place]
