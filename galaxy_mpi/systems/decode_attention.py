"""Attention of a decode step over the paged cache; users are grouped by cache length.

The cache stays packed: keys and values are unpacked for a few users and heads at a time.
"""

from typing import Any

import numpy as np

from galaxy_mpi.arrays import F32, Bytes, Ints
from galaxy_mpi.dtypes import FLOAT32
from galaxy_mpi.kernels.attention import attend_decode
from galaxy_mpi.systems.kv_cache import KVCache
from galaxy_mpi.systems.modules import Attention, put
from galaxy_mpi.systems.precision import Precision

__all__ = ["AttentionStep", "Workspace"]

_UNPACKED_BYTES = 1 << 20
"""Limit of unpacked keys and values in float32: about the size of a core's L2 cache."""


class Workspace:
    """Scratch arrays shared by the attention of all layers of a thread; they grow as needed."""

    def __init__(self) -> None:
        self._bytes: dict[str, Bytes] = {}
        self._views: dict[tuple[Any, ...], Any] = {}

    def bytes(self, name: str, *shape: int) -> Bytes:
        """Return named scratch bytes, overwritten by the next use of the name."""
        key = (name, *shape)
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


class AttentionStep:
    """The attention of one layer.

    Parameters
    ----------
    cache : KVCache
    inputs : object
        Its ``table`` is the page table of the users.
    precision : Precision
        Of the layer.
    attend : Attention
    workspace : Workspace
    """

    def __init__(
        self,
        cache: KVCache,
        inputs: Any,
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
        self._codecs: dict[int, Any] = {}

    def attend(self, q_BNH: F32, out_BNH: F32) -> None:
        """Attend to the cache up to each user's position; idle users get zeros."""
        table = self._inputs.table
        groups = table.same_length
        if len(groups) == 1 and len(groups[0][0]) == len(q_BNH):
            places, blocks_GP = groups[0]
            self._attend_group(q_BNH, places, blocks_GP, out_BNH)
            return
        out_BNH.fill(0)
        for places, blocks_GP in groups:
            mixed = np.empty((len(places), *q_BNH.shape[1:]), np.float32)
            self._attend_group(q_BNH[places], places, blocks_GP, mixed)
            out_BNH[places] = mixed

    def _attend_group(self, q: F32, places: Ints, blocks_GP: Ints, out: F32) -> None:
        """Attend for users of one number of blocks: so many at once as fit the processor's cache.

        A user's result does not depend on the other users, nor a head's on other heads.
        """
        n_kv, _, page, _, _ = self._cache.rows.shape
        head_bytes = 2 * blocks_GP.shape[1] * page * self._cache.head_dim * 4
        n_users = max(1, _UNPACKED_BYTES // (n_kv * head_bytes))
        n_heads = n_kv
        if self._is_own and n_users == 1:
            n_heads = max(1, _UNPACKED_BYTES // head_bytes)
        per_kv = q.shape[1] // n_kv
        for first in range(0, len(places), n_users):
            users = slice(first, first + n_users)
            for head in range(0, n_kv, n_heads):
                kv_heads = slice(head, min(head + n_heads, n_kv))
                heads = slice(kv_heads.start * per_kv, kv_heads.stop * per_kv)
                self._attend_part(
                    q[users, heads], places[users], blocks_GP[users], kv_heads, out[users, heads]
                )

    def _attend_part(
        self, q: F32, places: Ints, blocks_GP: Ints, kv_heads: slice, out: F32
    ) -> None:
        table = self._inputs.table
        k, v = self._read(blocks_GP, kv_heads)
        if self._fidelity is not None:
            q = self._fidelity.activation(q)
            if self._cuts_cache:
                k, v = self._fidelity.weight(k), self._fidelity.weight(v)
        if self._is_own:
            n_kv, per_kv = k.shape[1], q.shape[1] // k.shape[1]
            scores = self._workspace.values("scores", len(q), n_kv, per_kv, k.shape[2])
            scaled = self._workspace.values("queries", len(q), n_kv, per_kv, q.shape[2])
            future = table.future(places, k.shape[2])
            attend_decode(q, k, v, future, scaled, scores, out)
        else:
            mixed = self._attend.decode(q, k, v, table.positions_B[places])
            put(out, mixed, self._attend, "decode")

    def _read(self, blocks_GP: Ints, kv_heads: slice) -> tuple[F32, F32]:
        """Return all positions of the blocks of G users, two arrays of shape (G, K, T, H)."""
        cache, space = self._cache, self._workspace
        packed = cache.rows[kv_heads]
        n_kv, _, page, _, row_bytes = packed.shape
        n_users, n_pages = blocks_GP.shape
        rows = space.bytes("rows", n_kv, n_users, n_pages, page, 2, row_bytes)
        packed.take(blocks_GP, axis=1, out=rows, mode="clip")
        if self._is_plain:
            both = rows.view(np.float32)
        else:
            n_rows = n_kv * n_users * n_pages * page * 2
            if n_rows not in self._codecs:
                if len(self._codecs) > 8:
                    self._codecs.clear()
                self._codecs[n_rows] = cache.dtype.row_codec(n_rows, cache.head_dim)
            both = space.values("both", n_rows, cache.head_dim)
            self._codecs[n_rows].unpack(rows.reshape(n_rows, row_bytes), both)
        both = both.reshape(n_kv, n_users, n_pages * page, 2, cache.head_dim).swapaxes(0, 1)
        return both[..., 0, :], both[..., 1, :]
