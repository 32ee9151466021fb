"""Parts of a layer that can be swapped: attention, rotary embedding, norm.

A class of one's own takes the place of one here (`Modules`); it says how one chip computes, the
systems say what travels in between.
"""

from dataclasses import dataclass

from galaxy_mpi.arrays import F32, Ints
from galaxy_mpi.kernels import (
    RotaryTable,
    attention_decode,
    attention_prefill,
    rms_scale,
    sum_of_squares,
)

__all__ = ["Attention", "Modules", "RMSNorm"]


class Attention:
    """Grouped-query attention of the heads of one chip."""

    def decode(self, q_BNH: F32, k_BKTH: F32, v_BKTH: F32, positions_B: Ints) -> F32:
        """Attend with one token of each user; see `galaxy_mpi.kernels.attention_decode`."""
        return attention_decode(q_BNH, k_BKTH, v_BKTH, positions_B)

    def prefill(self, q_SNH: F32, k_KTH: F32, v_KTH: F32, *, start: int) -> F32:
        """Attend causally; see `galaxy_mpi.kernels.attention_prefill`."""
        return attention_prefill(q_SNH, k_KTH, v_KTH, start=start)


class RMSNorm:
    """Norm in two halves, because statistics may be summed over chips in between.

    Parameters
    ----------
    dim : int
        Values of a row, on all chips together.
    eps : float
    """

    def __init__(self, dim: int, eps: float) -> None:
        self.dim, self.eps = dim, eps

    def statistics(self, x_BD: F32) -> F32:
        """Return what is summed over the chips that share the rows, (B,)."""
        return sum_of_squares(x_BD)

    def normalise(self, x_BD: F32, total_B: F32, gain_D: F32) -> F32:
        """Return the normalised rows, given their statistics over the whole dim."""
        normalised = x_BD * rms_scale(total_B, dim=self.dim, eps=self.eps)
        normalised *= gain_D
        return normalised


@dataclass(frozen=True)
class Modules:
    """The classes that a model is built with."""

    attention_class: type[Attention] = Attention
    norm_class: type[RMSNorm] = RMSNorm
    rope_class: type[RotaryTable] = RotaryTable
