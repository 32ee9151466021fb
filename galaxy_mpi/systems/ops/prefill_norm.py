"""Prefill: norms, the residual, and the rows that the head reads."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from galaxy_mpi.arrays import F32
from galaxy_mpi.ccl.calls import add_rows
from galaxy_mpi.ccl.wire import BufferKey, Kind, Wire
from galaxy_mpi.dtypes import TILE, DType, padded
from galaxy_mpi.mesh import Axis
from galaxy_mpi.program import Charge, Cuts, Tensor
from galaxy_mpi.systems.chip import ChipBinder
from galaxy_mpi.systems.ops.add_norm import concat_columns, normalise, statistics
from galaxy_mpi.systems.ops.prefill_base import PrefillOp
from galaxy_mpi.systems.site import Site
from galaxy_mpi.weights import Vector, VectorId, Weight

if TYPE_CHECKING:
    from galaxy_mpi.timing.costs import Costs

__all__ = ["LastTiles", "PrefillAdd", "PrefillNorm", "ScatteredPrefillNorm"]


class PrefillNorm(PrefillOp):
    """Statistics, all-gather, normalise.

    Parameters
    ----------
    site : Site
    gain : Vector
        The norm: before attention, before the feed-forward, or after the last layer.
    all_rows : bool
        Whether the norm after the last layer is of every row, not of one tile of rows per user.
    """

    def __init__(self, site: Site, gain: Vector, *, all_rows: bool = False) -> None:
        is_final = gain is Vector.FINAL_NORM
        name = ("all_norm" if all_rows else "final_norm") if is_final else str(gain)
        super().__init__(site, name=name)
        self.gain, self.is_last = gain, is_final and not all_rows

    def __call__(self, x: Tensor) -> Tensor:
        """Return the normalised stream, (S, D/C)."""
        inputs = (x, VectorId(x.program.layer, self.gain))
        (h,) = self.record(x.program, inputs, h=(x.shape[0], self.shape.dim))
        return h

    def cuts(self) -> Cuts:
        """Return the sharding of its outputs."""
        return {"h": ((), (Axis.ROW,))}

    @property
    def _normed(self) -> DType:
        f = self.formats
        return {
            Vector.ATTENTION_NORM: f.attention_norm,
            Vector.FFN_NORM: f.mlp_norm,
            Vector.FINAL_NORM: f.final_norm,
        }[self.gain]

    @property
    def _n_rows(self) -> int:
        return TILE if self.is_last else self.device_rows

    @property
    def _sent_rows(self) -> int:
        return self.work.n_users * TILE if self.is_last else self.rows

    @property
    def _statistics(self) -> Wire:
        """One number per row, which needs a tile on the device."""
        dtype, shape = self.formats.statistics, (self._n_rows, TILE)
        sent = (self._sent_rows, 1)
        return Wire(BufferKey.LAYERNORM, Axis.ROW, Kind.ALL_GATHER, dtype, shape, sent, links=1)

    def wires(self) -> tuple[Wire, ...]:
        """Return the gather of the statistics."""
        return (self._statistics,)

    def charges(self, costs: "Costs") -> Iterator[Charge]:
        """Two ops and a gather on one link."""
        elements = self._n_rows * self.shape.dim
        yield from self.vector(costs, "norm", elements, passes=1, tensors=1)
        yield from self.vector(costs, "norm", elements, passes=2)
        yield from self.cross(costs, self._statistics, name="norm")

    def bind(self, chip: ChipBinder, x: F32, gain: VectorId) -> F32:
        """Sum the statistics of all columns in their order, normalise."""
        norm = self.site.modules.norm_class(self.shape.model_dim, self.shape.norm_eps)
        gathered = chip.collective(self._statistics)
        statistics(chip, norm, x, gathered.term[:, 0])
        of_columns = gathered.cross()[..., 0]
        total = of_columns[0]
        if len(of_columns) > 1:
            total = chip.array(len(x))
            add_rows(chip, of_columns, total)
        h = normalise(chip, norm, x, total, chip.vector(gain))
        chip.round(self._normed, h)
        return h


class ScatteredPrefillNorm(PrefillNorm):
    """One row of chips: the stream is gathered, and the whole is normalised on every chip."""

    def cuts(self) -> Cuts:
        """Return the sharding of its outputs."""
        return {"h": ((), ())}

    @property
    def _stream(self) -> Wire:
        f, width = self.formats, self.shape.stream
        dtype = {
            Vector.ATTENTION_NORM: f.layer_input,
            Vector.FFN_NORM: f.attention_sum,
            Vector.FINAL_NORM: f.mlp_sum,
        }[self.gain]
        shape, sent = (self._n_rows, padded(width)), (self._sent_rows, width)
        return Wire(BufferKey.LAYERNORM, Axis.COLUMN, Kind.ALL_GATHER, dtype, shape, sent)

    def wires(self) -> tuple[Wire, ...]:
        """Return the gather of the stream."""
        return (self._stream,)

    def charges(self, costs: "Costs") -> Iterator[Charge]:
        """All-gather of the stream, norm of the whole."""
        yield from self.cross(costs, self._stream, name="all_gather_norm")
        yield from self.vector(costs, "norm", self._n_rows * self.shape.dim, passes=3)

    def bind(self, chip: ChipBinder, x: F32, gain: VectorId) -> F32:
        """Gather, normalise the whole."""
        norm = self.site.modules.norm_class(self.shape.model_dim, self.shape.norm_eps)
        gathered = chip.collective(self._stream)
        chip.call(np.copyto, gathered.term, x)
        whole = concat_columns(chip, gathered.cross(), self.shape.model_dim)
        total = chip.array(len(x))
        statistics(chip, norm, whole, total)
        h = normalise(chip, norm, whole, total, chip.vector(gain))
        chip.round(self._normed, h)
        return h


class PrefillAdd(PrefillOp):
    """Adds a block's output to the residual.

    Parameters
    ----------
    site : Site
    weight : Weight
        The last one of the block: `Weight.WO` or `Weight.W2`.
    """

    def __init__(self, site: Site, weight: Weight) -> None:
        self._ends_attention = weight is Weight.WO
        super().__init__(site, name="attention_add" if self._ends_attention else "ffn_add")

    def __call__(self, residual: Tensor, x: Tensor) -> Tensor:
        """Return the new residual, (S, D/C)."""
        (out,) = self.record(x.program, (residual, x), out=x.shape)
        return out

    def cuts(self) -> Cuts:
        """Return the sharding of its outputs."""
        return {"out": self.stream_cut}

    def charges(self, costs: "Costs") -> Iterator[Charge]:
        """One op."""
        elements, dtype = self.device_rows * self.shape.stream, self.formats.attention_sum
        yield from self.vector(costs, "add", elements, passes=1, tensors=3, dtype=dtype)

    def bind(self, chip: ChipBinder, residual: F32, x: F32) -> F32:
        """Add and round; after the feed-forward, also to the format that the next layer reads."""
        out = chip.array(*x.shape)
        chip.call(np.add, residual, x, out)
        if self._ends_attention:
            chip.round(self.formats.attention_sum, out)
            return out
        chip.round(self.formats.mlp_sum, out)
        if self.precision.next_input is not self.formats.mlp_sum:
            chip.round(self.precision.next_input, out)
        return out


class LastTiles(PrefillOp):
    """The tile of 32 rows with each user's last token, which the norm reads in place."""

    name = "last_tiles"

    def __call__(self, x: Tensor) -> Tensor:
        """Return (32 U, D/C)."""
        rows = self.work.n_users * TILE
        (tiles,) = self.record(x.program, (x,), tiles=(rows, x.shape[1]))
        return tiles

    def cuts(self) -> Cuts:
        """Return the sharding of its outputs."""
        return {"tiles": self.stream_cut}

    def charges(self, costs: "Costs") -> Iterator[Charge]:
        """Nothing."""
        return iter(())

    def bind(self, chip: ChipBinder, x: F32) -> F32:
        """Copy. A user's rows are whole tiles; the last one has its last token."""
        tiles = chip.array(self.work.n_users * TILE, x.shape[1])
        for user, rows in enumerate(self.work.parts):
            target = tiles[user * TILE : (user + 1) * TILE]
            chip.call(np.copyto, target, x[rows.stop - TILE : rows.stop])
        return tiles
