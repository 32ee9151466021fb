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
from galaxy_mpi.systems.chip import ChipBinder, VectorId
from galaxy_mpi.systems.ops.add_norm import concat_columns, normalise, statistics
from galaxy_mpi.systems.ops.prefill_base import PrefillOp

if TYPE_CHECKING:
    from galaxy_mpi.timing.costs import Costs

__all__ = ["LastTiles", "PrefillAdd", "PrefillNorm", "ScatteredPrefillNorm"]


class PrefillNorm(PrefillOp):
    """Statistics, all-gather, normalise."""

    def __call__(self, x: Tensor, gain: VectorId) -> Tensor:
        """Return the normalised stream, (S, D/C)."""
        (h,) = self.record(x.program, (x, gain), h=(x.shape[0], self.shape.dim))
        return h

    def cuts(self) -> Cuts:
        """Return the sharding of its outputs."""
        return {"h": ((), (Axis.ROW,))}

    @property
    def is_last(self) -> bool:
        """Whether it is the norm after the last layer, of one tile of rows per user."""
        return self.name == "final_norm"

    @property
    def _normed(self) -> DType:
        f = self.formats
        return {"attention_norm": f.attention_norm, "ffn_norm": f.mlp_norm}.get(
            self.name, f.final_norm
        )

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
        dtype = {"attention_norm": f.layer_input, "ffn_norm": f.attention_sum}.get(
            self.name, f.mlp_sum
        )
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
    """Adds a block's output to the residual."""

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
        if self.name == "attention_add":
            chip.round(self.formats.attention_sum, out)
            return out
        chip.round(self.formats.mlp_sum, out)
        if self.precision.next_input is not self.formats.mlp_sum:
            chip.round(self.precision.next_input, out)
        return out


class LastTiles(PrefillOp):
    """The tile of 32 rows with each user's last token, which the norm reads in place."""

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
