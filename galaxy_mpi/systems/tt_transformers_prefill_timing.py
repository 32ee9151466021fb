"""TT-Transformers' prefill as seconds: `TtTransformersPrefill`, charged to clocks, no values."""

from typing import Any

from galaxy_mpi.ccl import BufferKey
from galaxy_mpi.mesh import Axis
from galaxy_mpi.prefetch import WeightId
from galaxy_mpi.systems.prefill_pass import PrefillPass
from galaxy_mpi.systems.prefill_timing import PrefillTiming

__all__ = ["ScatteredPrefillTiming", "TtTransformersPrefillTiming"]


class TtTransformersPrefillTiming(PrefillTiming):
    """Charges the ops of a prefill pass: none that differs from those of all systems."""

    name = "tt_transformers"


class ScatteredPrefillTiming(TtTransformersPrefillTiming):
    """Charges the ops of `galaxy_mpi.systems.tt_transformers_1d.ScatteredPrefill`."""

    def normalised(self, x: Any, gain: Any) -> Any:
        """All-gather of the stream, norm of the whole."""
        rows = 32 if gain == "norm" else self._rows
        block = (
            rows / 32 * -(-self.sizes.stream // 32) * self._precision.prefill_residual.tile_bytes
        )
        self._gather("all_gather_norm", BufferKey.LAYERNORM, Axis.ROWS, block)
        self._vector("norm", rows * self.sizes.dim, passes=3)

    def attention_output(self, attention: Any, wo: WeightId, work: PrefillPass) -> Any:
        """Matmul, reduce-scatter."""
        self._matmul("wo_matmul", wo)
        self._scatter("reduce_scatter_wo", BufferKey.WO, Axis.ROWS, self.sizes.stream)

    def down(self, act: Any, w2: WeightId, work: PrefillPass) -> Any:
        """Matmul, reduce-scatter."""
        self._matmul("w2_matmul", w2)
        self._scatter("reduce_scatter_w2", BufferKey.FF2, Axis.ROWS, self.sizes.stream)
