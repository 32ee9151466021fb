"""Decode: add to the residual and normalise, with statistics summed over the columns."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from galaxy_mpi.arrays import F32
from galaxy_mpi.ccl.calls import add_rows
from galaxy_mpi.ccl.wire import BufferKey, Kind, Wire
from galaxy_mpi.dtypes import TILE, DType
from galaxy_mpi.mesh import Axis
from galaxy_mpi.program import Charge, Cuts, Kernel, Tensor
from galaxy_mpi.systems.chip import ChipBinder
from galaxy_mpi.systems.modules import RMSNorm, put
from galaxy_mpi.systems.ops.base import SystemOp
from galaxy_mpi.systems.site import Site
from galaxy_mpi.weights import Vector, VectorId

if TYPE_CHECKING:
    from galaxy_mpi.timing.costs import Costs

__all__ = ["AddNorm", "FusedAddNorm", "ScatteredAddNorm", "add", "normalise"]


def add(chip: ChipBinder, op: "AddNorm", x: F32, residual: F32 | None) -> F32:
    """Bind the addition of a block's output to the residual; before all layers, the cast."""
    if residual is None:
        if op.stream is not op.precision.embedding:
            chip.round(op.stream, x)
        return x
    total = chip.array(*x.shape)
    chip.call(np.add, x, residual, total)
    chip.round(op.sum, total)
    if op.stream is not op.sum:  # the previous layer has another format
        chip.round(op.stream, total)
    return total


def normalise(chip: ChipBinder, norm: RMSNorm, x: F32, total_B: F32, gain: F32) -> F32:
    """Bind the second half of a norm; the result is not rounded."""
    out = chip.array(*x.shape)
    if type(norm) is not RMSNorm:  # a user's class
        chip.call(lambda: put(out, norm.normalise(x, total_B, gain), norm, "normalise"))
        return out
    scale = chip.array(len(x))
    chip.call(np.divide, total_B, np.float32(norm.dim), scale)
    chip.call(np.add, scale, np.float32(norm.eps), scale)
    chip.call(np.sqrt, scale, scale)
    chip.call(np.divide, np.float32(1), scale, scale)
    chip.call(np.multiply, x, scale[:, None], out)
    chip.call(np.multiply, out, gain, out)
    return out


def statistics(chip: ChipBinder, norm: RMSNorm, x: F32, out_B: F32) -> None:
    """Bind the first half of a norm."""
    if type(norm) is RMSNorm:
        chip.call(np.vecdot, x, x, out_B)
    else:
        chip.call(lambda: put(out_B, norm.statistics(x), norm, "statistics"))


_NAMES = {
    Vector.ATTENTION_NORM: "rms_norm_attention",
    Vector.FFN_NORM: "rms_norm_mlp",
    Vector.FINAL_NORM: "final_norm",
}


class AddNorm(SystemOp):
    """Generic: add, statistics, all-gather, normalise.

    Parameters
    ----------
    site : Site
    gain : Vector
        The norm: before attention, before the feed-forward, or after the last layer.
    """

    def __init__(self, site: Site, gain: Vector) -> None:
        super().__init__(site, name=_NAMES[gain])
        self.gain = gain

    def __call__(self, x: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return (normalised, new residual), both (B, D/C)."""
        inputs = (x, residual, VectorId(x.program.layer, self.gain))
        h, total = self.record(x.program, inputs, h=(self.rows, self.shape.dim), residual=x.shape)
        return h, total

    def cuts(self) -> Cuts:
        """Return the sharding of its outputs."""
        return {"h": ((), (Axis.ROW,)), "residual": self.stream_cut}

    @property
    def is_last(self) -> bool:
        """Whether it is the norm after the last layer, whose residual is not read."""
        return self.gain is Vector.FINAL_NORM

    @property
    def sum(self) -> DType:
        """Format of the addition, of the block before: before attention, the previous layer's."""
        if self.is_last:
            return self.formats.last_sum
        is_mlps = self.gain is Vector.ATTENTION_NORM
        return self.precision.before.mlp_sum if is_mlps else self.formats.attention_sum

    @property
    def stream(self) -> DType:
        """Format of the residual stream that is normalised and passed on."""
        return self.formats.layer_input if self.gain is Vector.ATTENTION_NORM else self.sum

    def normed(self, residual: F32 | None) -> DType:
        """Return the format of the norm's output; before all layers there is no residual."""
        if self.is_last:
            return self.formats.final_norm
        if residual is None:
            return self.formats.first_norm
        is_attentions = self.gain is Vector.ATTENTION_NORM
        return self.formats.attention_norm if is_attentions else self.formats.mlp_norm

    @property
    def _statistics(self) -> Wire:
        """One number per row, which needs a tile on the device."""
        dtype, shape = self.formats.statistics, (self.device_rows, TILE)
        return Wire(
            BufferKey.LAYERNORM, Axis.ROW, Kind.ALL_GATHER, dtype, shape, (self.rows, 1), links=1
        )

    def wires(self) -> tuple[Wire, ...]:
        """Return the gather of the statistics."""
        return (self._statistics,)

    def charges(self, costs: "Costs") -> Iterator[Charge]:
        """Four ops: add, statistics, all-gather, normalise."""
        if not self.is_last:
            yield self._part(costs, "add", 1)
        yield self._part(costs, f"{self.name}_pre", 1)
        yield from self.cross(costs, self._statistics, name=f"all_gather_{self.name}")
        yield self._part(costs, f"{self.name}_post", 2)

    def _part(self, costs: "Costs", name: str, passes: int) -> Kernel:
        seconds = costs.norm_part_s(self.shape.users, self.shape.dim, passes=passes)
        return Kernel(name, seconds, costs.norm_cores(self.shape.dim))

    def bind(
        self, chip: ChipBinder, x: F32, residual: F32 | None, gain: VectorId
    ) -> tuple[F32, F32]:
        """Add, sum the statistics of all columns in their order, normalise."""
        norm = self.site.modules.norm_class(self.shape.model_dim, self.shape.norm_eps)
        stream = add(chip, self, x, residual)
        gathered = chip.collective(self._statistics)
        statistics(chip, norm, stream, gathered.term[:, 0])
        of_columns = gathered.cross()[..., 0]
        total = of_columns[0]
        if len(of_columns) > 1:
            total = chip.array(len(x))
            add_rows(chip, of_columns, total)
        h = normalise(chip, norm, stream, total, chip.vector(gain))
        chip.round(self.normed(residual), h)
        return h, stream


class FusedAddNorm(AddNorm):
    """Galaxy: all in one op, the gather on one link (op 1 and 10 of the layer).

    References
    ----------
    .. [1] tt-metal, models/demos/llama3_70b_galaxy/tt/distributed_norm.py, ``rms_norm``.
    """

    def charges(self, costs: "Costs") -> Iterator[Charge]:
        """One op. After the last layer no residual is written, which saves a pass.

        If heads are normalised (Qwen3), the add is a separate op before it.
        """
        shape, is_apart = self.shape, self.shape.has_qk_norm
        if is_apart and not self.is_last:
            elements = self.tiles(shape.dim) * 1024
            yield self.elementwise(costs, "add", elements, costs.fused_norm_cores(shape.dim), 1)
        passes = 3 if self.is_last or is_apart else 4
        own_s = costs.norm_s(self.shape.users, self.shape.dim, passes=passes)
        yield from self.cross(costs, self._statistics, own_s)


class ScatteredAddNorm(AddNorm):
    """One row of chips: the stream is gathered, and the whole is normalised on every chip."""

    def cuts(self) -> Cuts:
        """Return the sharding of its outputs."""
        return {"h": ((), ()), "residual": self.stream_cut}

    @property
    def _stream(self) -> Wire:
        dtype = self.stream
        return self.wire(
            BufferKey.LAYERNORM, Axis.COLUMN, Kind.ALL_GATHER, dtype, self.shape.stream
        )

    def wires(self) -> tuple[Wire, ...]:
        """Return the gather of the stream."""
        return (self._stream,)

    def charges(self, costs: "Costs") -> Iterator[Charge]:
        """Three ops: add, all-gather, norm."""
        shape = self.shape
        if not self.is_last:
            seconds = costs.norm_part_s(shape.users, shape.stream, passes=1)
            yield Kernel("add", seconds, costs.norm_cores(shape.stream))
        yield from self.cross(costs, self._stream, name=f"all_gather_{self.name}")
        seconds = costs.norm_part_s(shape.users, shape.dim, passes=3)
        yield Kernel(self.name, seconds, costs.norm_cores(shape.dim))

    def bind(
        self, chip: ChipBinder, x: F32, residual: F32 | None, gain: VectorId
    ) -> tuple[F32, F32]:
        """Add this chip's part, gather, normalise the whole."""
        norm = self.site.modules.norm_class(self.shape.model_dim, self.shape.norm_eps)
        stream = add(chip, self, x, residual)
        whole = gather_stream(chip, self, self._stream, stream)
        total = chip.array(len(x))
        statistics(chip, norm, whole, total)
        h = normalise(chip, norm, whole, total, chip.vector(gain))
        chip.round(self.normed(residual), h)
        return h, stream


def gather_stream(chip: ChipBinder, op: SystemOp, wire: Wire, x: F32) -> F32:
    """Bind the gather of a sharded stream: (B, D/N) to (B, D)."""
    gathered = chip.collective(wire)
    chip.call(np.copyto, gathered.term, x)
    return concat_columns(chip, gathered.cross(), op.shape.model_dim)


def concat_columns(chip: ChipBinder, parts: F32, width: int | None = None) -> F32:
    """Bind the concatenation of the members' columns: (C, S, W) to (S, C * W), or ``width``."""
    n_parts, n_rows, each = parts.shape
    width = n_parts * each if width is None else width
    out = chip.array(n_rows, width)
    if width == n_parts * each:
        chip.call(np.copyto, out.reshape(n_rows, n_parts, each), parts.swapaxes(0, 1))
        return out
    for number in range(n_parts):
        begin, end = number * each, min((number + 1) * each, width)
        chip.call(np.copyto, out[:, begin:end], parts[number][:, : end - begin])
    return out
