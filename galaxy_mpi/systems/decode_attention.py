"""Attention of a decode step over the paged cache; users are grouped by cache length.

The cache stays packed: keys and values are unpacked for a few users and heads at a time.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from galaxy_mpi.arrays import F32, Bytes, Ints
from galaxy_mpi.dtypes import FLOAT32, DType, RowCodec
from galaxy_mpi.kernels.attention import attend_decode
from galaxy_mpi.systems.kv_cache import KVCache, PageTable, read_size
from galaxy_mpi.systems.modules import Attention, put
from galaxy_mpi.systems.precision import Precision

if TYPE_CHECKING:
    from galaxy_mpi.systems.chip import StepInputs

__all__ = ["AttentionStep", "Part", "Workspace"]

_UNPACKED_BYTES = 1 << 20
"""Limit of unpacked keys and values in float32: about the size of a core's L2 cache."""

_MOST_CODECS = 8


class Workspace:
    """Scratch arrays shared by the attention of all layers of a thread; they grow as needed."""

    def __init__(self) -> None:
        self._bytes: dict[str, Bytes] = {}
        self._views: dict[tuple[str | int, ...], Bytes] = {}
        self._codecs: dict[tuple[DType, int, int], RowCodec] = {}

    def row_codec(self, dtype: DType, rows: int, width: int) -> RowCodec:
        """Return a codec for rows, one of the last few."""
        key = dtype, rows, width
        codec = self._codecs.get(key)
        if codec is None:
            if len(self._codecs) > _MOST_CODECS:
                self._codecs.clear()
            codec = self._codecs[key] = dtype.row_codec(rows, width)
        return codec

    def bytes(self, name: str, *shape: int) -> Bytes:
        """Return named scratch bytes, overwritten by the next use of the name."""
        key: tuple[str | int, ...] = (name, *shape)
        view = self._views.get(key)
        if view is None:
            n_bytes = int(np.prod(shape))
            if name not in self._bytes or len(self._bytes[name]) < n_bytes:
                self._bytes[name] = np.empty(n_bytes, np.uint8)
                # Views of the smaller array would keep it alive.
                self._views = {k: v for k, v in self._views.items() if k[0] != name}
            elif len(self._views) > 1000:
                self._views.clear()
            view = self._views[key] = self._bytes[name][:n_bytes].reshape(shape)
        return view

    def values(self, name: str, *shape: int) -> F32:
        """Return named scratch of float32."""
        values: F32 = self.bytes(name, *shape[:-1], 4 * shape[-1]).view(np.float32)
        return values


@dataclass(slots=True)
class Part:
    """Users and kv heads that are attended to at once, with the arrays for them."""

    places: Ints
    users: slice | Ints
    """As ``places``, but a slice if they are adjacent."""
    heads: slice
    kv_heads: slice
    runs: Ints
    rows: Bytes
    """Their packed keys and values, (K, G, n, run, 2, row bytes)."""
    unpack: Callable[[], object] | None
    """Unpacks ``rows`` into ``k`` and ``v``; None if these are views of ``rows``."""
    k: F32
    v: F32
    scaled: F32
    scores: F32
    future: NDArray[np.bool_]


class AttentionStep:
    """The attention of one layer.

    Which users and heads are attended to at once, and the arrays for it, are the same in all layers
    of a step. They are therefore prepared once per step and kept with its page table.

    Parameters
    ----------
    cache : KVCache
    inputs : StepInputs
        Its ``table`` is the page table of the users.
    precision : Precision
        Of the layer.
    attend : Attention
    workspace : Workspace
    """

    def __init__(
        self,
        cache: KVCache,
        inputs: "StepInputs",
        precision: Precision,
        attend: Attention,
        workspace: Workspace,
    ) -> None:
        self._cache, self._inputs, self._workspace = cache, inputs, workspace
        self._is_plain = cache.dtype is FLOAT32
        self._attend = attend
        self._is_own = type(self._attend) is Attention
        fidelity = precision.fidelity("sdpa", "decode") if precision.cuts_inputs else None
        self._fidelity = fidelity
        self._cuts_cache = fidelity is not None and not fidelity.reads_whole(precision.kv_cache)
        n_kv, n_blocks, page, _, row_bytes = cache.rows.shape
        size = read_size(page)
        self._runs = cache.rows.reshape(n_kv, n_blocks * page // size, size, 2, row_bytes)
        self._key = id(workspace), cache.dtype, cache.head_dim, n_kv, self._is_own

    @property
    def _table(self) -> PageTable:
        table = self._inputs.table
        assert table is not None
        return table

    def attend(self, q_BNH: F32, out_BNH: F32) -> None:
        """Attend to the cache up to each user's position; idle users get zeros."""
        table = self._table
        key = (*self._key, q_BNH.shape)
        parts = table.parts.get(key)
        if parts is None:
            parts = table.parts[key] = list(self._parts(q_BNH.shape))
        if len(table.active) < len(q_BNH):
            out_BNH.fill(0)
        for part in parts:
            self._attend_part(part, q_BNH, out_BNH)

    def _parts(self, shape: tuple[int, ...]) -> Iterator[Part]:
        """Yield as many users of one length at once as fit the processor's cache.

        A user's result does not depend on the other users, nor a head's on other heads.
        """
        n_kv, _, size, _, _ = self._runs.shape
        per_kv = shape[1] // n_kv
        for places, runs_GN in self._table.same_length:
            head_bytes = 2 * runs_GN.shape[1] * size * self._cache.head_dim * 4
            n_users = max(1, _UNPACKED_BYTES // (n_kv * head_bytes))
            n_heads = n_kv
            if self._is_own and n_users == 1:
                n_heads = max(1, _UNPACKED_BYTES // head_bytes)
            for first in range(0, len(places), n_users):
                users = slice(first, first + n_users)
                for head in range(0, n_kv, n_heads):
                    kv_heads = slice(head, min(head + n_heads, n_kv))
                    yield self._part(places[users], runs_GN[users], kv_heads, per_kv)

    def _part(self, places: Ints, runs: Ints, kv_heads: slice, per_kv: int) -> Part:
        space, head_dim = self._workspace, self._cache.head_dim
        _, _, size, _, row_bytes = self._runs.shape
        n_kv = kv_heads.stop - kv_heads.start
        n_users, n_runs = runs.shape
        rows = space.bytes("rows", n_kv, n_users, n_runs, size, 2, row_bytes)
        unpack = None
        if self._is_plain:
            both = rows.view(np.float32)
        else:
            n_rows = n_kv * n_users * n_runs * size * 2
            both = space.values("both", n_rows, head_dim)
            codec = space.row_codec(self._cache.dtype, n_rows, head_dim)
            unpack = partial(codec.unpack, rows.reshape(n_rows, row_bytes), both)
        both = both.reshape(n_kv, n_users, n_runs * size, 2, head_dim).swapaxes(0, 1)
        n_own = n_users if self._is_own else 0  # a user's class has arrays of its own
        adjacent = int(places[-1]) - int(places[0]) + 1 == n_users
        return Part(
            places,
            slice(int(places[0]), int(places[-1]) + 1) if adjacent else places,
            slice(kv_heads.start * per_kv, kv_heads.stop * per_kv),
            kv_heads,
            runs,
            rows,
            unpack,
            both[..., 0, :],
            both[..., 1, :],
            space.values("queries", n_own, n_kv, per_kv, head_dim),
            space.values("scores", n_own, n_kv, per_kv, n_runs * size),
            self._table.future(places, n_runs * size),
        )

    def _attend_part(self, part: Part, q_BNH: F32, out_BNH: F32) -> None:
        self._runs[part.kv_heads].take(part.runs, axis=1, out=part.rows, mode="clip")
        if part.unpack is not None:
            part.unpack()
        q, k, v = q_BNH[part.users, part.heads], part.k, part.v
        if self._fidelity is not None:
            q = self._fidelity.activation(q)
            if self._cuts_cache:
                k, v = self._fidelity.weight(k), self._fidelity.weight(v)
        # Of users that are not adjacent, indexing returned a copy.
        is_view = isinstance(part.users, slice)
        out = out_BNH[part.users, part.heads] if is_view else np.empty(q.shape, np.float32)
        if self._is_own:
            attend_decode(q, k, v, part.future, part.scaled, part.scores, out)
        else:
            positions = self._table.positions_B[part.places]
            put(out, self._attend.decode(q, k, v, positions), self._attend, "decode")
        if not is_view:
            out_BNH[part.users, part.heads] = out
