"""The Galaxy's prefill as seconds: the ops of `GalaxyPrefill`, charged to clocks, no values."""

from typing import Any

from galaxy_mpi.ccl import BufferKey
from galaxy_mpi.mesh import Axis
from galaxy_mpi.prefetch import WeightId
from galaxy_mpi.systems.prefill_pass import PrefillPass, causal_pairs, query_chunks
from galaxy_mpi.systems.prefill_timing import PrefillTiming

__all__ = ["GalaxyPrefillTiming"]


class GalaxyPrefillTiming(PrefillTiming):
    """Charges the ops of a prefill pass."""

    name = "galaxy"

    def attention(self, q: Any, k: Any, v: Any, cache: Any, work: PrefillPass) -> Any:
        """Where the columns share the queries: this column's, then two gathers."""
        n_cols = self._mesh.size(Axis.COLS)
        if not work.is_distributed(n_cols):
            super().attention(q, k, v, cache, work)
            return
        length = self._rows // work.n_parts
        self._attend(causal_pairs(query_chunks(length, n_cols, 0)))
        width = self.sizes.heads * self.sizes.head_dim
        for key in (BufferKey.SDPA, BufferKey.SDPA_REVERSE):
            block = length // (2 * n_cols) * width * 2
            self._gather("all_gather_attention", key, Axis.COLS, block)
        self._concat_heads()

    def down(self, act: Any, w2: WeightId, work: PrefillPass) -> Any:
        """In long sequences gather and matmul overlap."""
        if not work.is_long:
            super().down(act, w2, work)
            return
        self._collective(
            "all_gather_w2_matmul",
            BufferKey.BINARY_MUL,
            Axis.COLS,
            0.0,
            self._packed_bytes(self.sizes.hidden_shard),
            beside_s=self._matmul_s(w2),
            cores=self._machine.prefill_cores,
        )
        self._all_reduce("all_reduce_w2", BufferKey.FF2, Axis.ROWS, self.sizes.dim)
