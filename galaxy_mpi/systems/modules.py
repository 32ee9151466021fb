"""Replaceable parts of a layer: attention, rotary embedding, norm.

A user's class can replace one of these (`Modules`). It defines the computation on one chip; systems
define what is sent in between.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from galaxy_mpi.arrays import F32, Ints
from galaxy_mpi.errors import ConfigError, ValuesError
from galaxy_mpi.kernels import (
    RotaryTable,
    attention_decode,
    attention_prefill,
    rms_scale,
    sum_of_squares,
)

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from galaxy_mpi.systems.chip import ChipState

__all__ = ["Attention", "Modules", "RMSNorm", "put"]


def put(out: F32, values: "ArrayLike", maker: object, method: str) -> None:
    """Copy the result of a user's class to its destination.

    Raises
    ------
    ValuesError
        If the shape differs, because numpy would broadcast it silently.
    """
    if np.shape(values) != out.shape:
        raise ValuesError(
            f"{type(maker).__name__}.{method} returned shape {np.shape(values)}, not {out.shape}"
        )
    np.copyto(out, values)


class Attention:
    """Grouped-query attention of the heads of one chip, in one layer.

    A subclass may have more state. It is constructed without arguments; the attributes below are
    set before use.
    """

    layer: int = 0
    """Layer number."""
    heads: tuple[int, ...] = ()
    """Model-wide numbers of the query heads on this chip; -1 for padding."""
    n_heads: int = 0
    """Number of query heads of the model."""
    kv_heads: tuple[int, ...] = ()
    """Model-wide numbers of the kv heads on this chip; -1 for padding."""
    n_tokens: int = 0
    """Prefill: tokens of the user, including cached ones, without padding."""

    def decode(self, q_BNH: F32, k_BKTH: F32, v_BKTH: F32, positions_B: Ints) -> F32:
        """Attend with one token of each user; see `galaxy_mpi.kernels.attention_decode`.

        T is padded to whole pages; if one page suffices, to whole tiles of it. User b has
        ``positions_B[b] + 1`` positions; later ones are padding.
        """
        return attention_decode(q_BNH, k_BKTH, v_BKTH, positions_B)

    def prefill(self, q_SNH: F32, k_KTH: F32, v_KTH: F32, *, start: int) -> F32:
        """Attend causally; see `galaxy_mpi.kernels.attention_prefill`.

        S and T are padded to whole tiles. Rows from ``n_tokens - start`` on are padding.
        """
        return attention_prefill(q_SNH, k_KTH, v_KTH, start=start)


class RMSNorm:
    """A norm in two halves, because statistics may be summed over chips in between.

    Parameters
    ----------
    dim : int
        Values per row, over all chips.
    eps : float
    """

    def __init__(self, dim: int, eps: float) -> None:
        self.dim, self.eps = dim, eps

    def statistics(self, x_BD: F32) -> F32:
        """Return the statistics to be summed over the chips that share the rows, (B,)."""
        return sum_of_squares(x_BD)

    def normalise(self, x_BD: F32, total_B: F32, gain_D: F32) -> F32:
        """Return the normalised rows, given their statistics over the whole dim."""
        normalised = x_BD * rms_scale(total_B, dim=self.dim, eps=self.eps)
        normalised *= gain_D
        return normalised


_BASES = {"attention_class": Attention, "norm_class": RMSNorm, "rope_class": RotaryTable}


@dataclass(frozen=True)
class Modules:
    """The classes that a model uses."""

    attention_class: type[Attention] = Attention
    norm_class: type[RMSNorm] = RMSNorm
    rope_class: type[RotaryTable] = RotaryTable

    def __post_init__(self) -> None:
        """Raise ConfigError if a class is of another kind, before a model is loaded."""
        for name, base in _BASES.items():
            found = getattr(self, name)
            if not (isinstance(found, type) and issubclass(found, base)):
                raise ConfigError(f"{name} is {found!r}, not a subclass of {base.__name__}")

    def attention(self, layer: int, state: "ChipState") -> Attention:
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
