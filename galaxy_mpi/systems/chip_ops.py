"""What the ops of a chip have at hand, in prefill and decode alike."""

from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

from galaxy_mpi.arrays import F32
from galaxy_mpi.ccl import CCL
from galaxy_mpi.kernels import Multiply, rms_norm_heads
from galaxy_mpi.prefetch import WeightSource
from galaxy_mpi.systems.matrix_unit import MatrixUnit
from galaxy_mpi.systems.modules import Modules
from galaxy_mpi.systems.ops import HeadLayout
from galaxy_mpi.systems.precision import Precision

__all__ = ["ChipOps", "ModelShape"]

_Ccl = TypeVar("_Ccl", bound=CCL)


@dataclass(frozen=True)
class ModelShape:
    """The sizes of the model that ops need beside their operands."""

    dim: int
    """Model dim D, whole."""
    norm_eps: float
    heads: HeadLayout


class ChipOps(Generic[_Ccl]):
    """The ops of a layer on one chip.

    Parameters
    ----------
    ccl : CCL
    weights : WeightSource
    precision : Precision
    shape : ModelShape
    multiply : Multiply
    modules : Modules, optional
        Classes of attention and norm.
    """

    name: ClassVar[str]
    mode: ClassVar[str]

    def __init__(
        self,
        ccl: _Ccl,
        weights: WeightSource,
        precision: Precision,
        shape: ModelShape,
        multiply: Multiply,
        modules: Modules | None = None,
    ) -> None:
        modules = modules or Modules()
        self.ccl, self.weights, self.shape = ccl, weights, shape
        self.precision = self._precisions = precision
        self.unit = MatrixUnit(multiply, precision, self.mode)
        self.norm = modules.norm_class(shape.dim, shape.norm_eps)
        self.attend = modules.attention_class()

    def begin_layer(self, layer: int) -> None:
        """Go on to the formats of a layer, or of what is behind the last (`HEAD`)."""
        if self._precisions.layers:
            self.precision = self._precisions.of(layer)
            self.unit = self.unit.of(self.precision)

    def norm_heads(self, q_BNH: F32, k_BKH: F32, q_gain_H: F32, k_gain_H: F32) -> tuple[F32, F32]:
        """Return q and k with every head normalised."""
        round_, eps = self.precision.activation.round, self.shape.norm_eps
        q = round_(rms_norm_heads(q_BNH, q_gain_H, eps=eps))
        return q, round_(rms_norm_heads(k_BKH, k_gain_H, eps=eps))
