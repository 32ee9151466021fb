"""Parts of a layer that can be swapped: attention, rotary embedding, norm.

A class of one's own takes the place of one here (`Modules`); it says how one chip computes, the
systems say what travels in between.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from galaxy_mpi.arrays import F32, Ints
from galaxy_mpi.errors import ValuesError
from galaxy_mpi.kernels import (
    RotaryTable,
    attention_decode,
    attention_prefill,
    rms_scale,
    sum_of_squares,
)

__all__ = ["Attention", "Modules", "RMSNorm", "put"]


def put(out: F32, values: Any, maker: object, method: str) -> None:
    """Copy what a class of the caller's own returned to where it is wanted.

    Raises
    ------
    ValuesError
        If it has another shape: numpy would broadcast it in silence.
    """
    if np.shape(values) != out.shape:
        raise ValuesError(
            f"{type(maker).__name__}.{method} returned shape {np.shape(values)}, not {out.shape}"
        )
    np.copyto(out, values)


class Attention:
    """Grouped-query attention of the heads of one chip, in one layer.

    A class of one's own may have more state; it is made without arguments, and what follows is set
    before it is used.
    """

    layer: int = 0
    """Its number."""
    heads: tuple[int, ...] = ()
    """Numbers, in the model, of the query heads that are here; -1 for one that is padding."""
    n_heads: int = 0
    """Query heads of the model."""
    kv_heads: tuple[int, ...] = ()
    """The same of the kv heads."""
    n_tokens: int = 0
    """Prefill: tokens of the user, cached ones included, without the padding behind them."""

    def decode(self, q_BNH: F32, k_BKTH: F32, v_BKTH: F32, positions_B: Ints) -> F32:
        """Attend with one token of each user; see `galaxy_mpi.kernels.attention_decode`.

        T is padded to whole pages: user b has ``positions_B[b] + 1`` positions, and what is behind
        them is of nobody.
        """
        return attention_decode(q_BNH, k_BKTH, v_BKTH, positions_B)

    def prefill(self, q_SNH: F32, k_KTH: F32, v_KTH: F32, *, start: int) -> F32:
        """Attend causally; see `galaxy_mpi.kernels.attention_prefill`.

        S and T are padded to whole tiles: rows from ``n_tokens - start`` on are of nobody.
        """
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

    def attention(self, layer: int, state: Any) -> Attention:
        """Return the attention of a layer on a chip.

        Parameters
        ----------
        layer : int
        state : ChipState
        """
        made = self.attention_class()
        made.layer, made.n_heads = layer, state.n_heads
        made.heads, made.kv_heads = state.heads, state.kv_heads
        return made
