"""Decode and prefill: the language-model head, up to this row's shard of the logits."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from galaxy_mpi.arrays import F32
from galaxy_mpi.ccl.wire import BufferKey, Kind, Wire
from galaxy_mpi.dtypes import TILE
from galaxy_mpi.mesh import Axis
from galaxy_mpi.program import Charge, Cuts, Kernel, Matrix, Tensor
from galaxy_mpi.systems.chip import ChipBinder, Operand
from galaxy_mpi.systems.ops.base import SystemOp
from galaxy_mpi.systems.ops.reduce import add_at_once_charges, gather_and_add_charges
from galaxy_mpi.weights import Weight, WeightId

if TYPE_CHECKING:
    from galaxy_mpi.timing.costs import Costs

__all__ = ["AllLogits", "FusedLogits", "Logits", "PrefillLogits"]

HEAD_COLUMNS_PER_CORE = 668
"""Maximum columns per core of a split of the head (tt-metal, tt_transformers, model_config.py)."""


class Logits(SystemOp):
    """Generic, decode: matmul, all-gather over the columns, sum."""

    name = "lm_head"

    def __call__(self, h: Tensor, head: tuple[WeightId, ...]) -> Tensor:
        """Return (B, V/R), the same on all columns.

        The weight is in pieces, of which one is unpacked at a time.
        """
        (logits,) = self.record(h.program, (h, head), logits=(self.n_rows, self.shape.vocab))
        return logits

    def cuts(self) -> Cuts:
        """Return the sharding of its outputs."""
        return {"logits": ((), (Axis.COLUMN,))}

    @property
    def n_rows(self) -> int:
        """Rows of the result."""
        return self.rows

    @property
    def _sum(self) -> Wire:
        shape, sent = (self.device_rows, self.shape.device_vocab), (self.rows, self.shape.vocab)
        return self._wire(shape, sent)

    def _wire(self, shape: tuple[int, int], sent: tuple[int, int]) -> Wire:
        dtype = self.formats.logits
        return Wire(BufferKey.LM_HEAD, Axis.ROW, Kind.ALL_REDUCE, dtype, shape, sent)

    def wires(self) -> tuple[Wire, ...]:
        """Return the all-reduce."""
        return (self._sum,)

    def matrices(self) -> tuple[Matrix, ...]:
        """Return the weight, which matmuls read from DRAM."""
        return (self.matrix(Weight.LM_HEAD, is_prefetched=False),)

    def charges(self, costs: "Costs") -> Iterator[Charge]:
        """Three ops."""
        yield self._matmul(costs)
        yield from gather_and_add_charges(self, costs, self._sum, "lm_head")

    def _matmul(self, costs: "Costs") -> Kernel:
        (k, n), tile_bytes = (
            self.shape.matrices[Weight.LM_HEAD],
            self.precision.head_weight.tile_bytes,
        )
        peak, users, m = self.peak(costs, Weight.LM_HEAD), self.shape.users, costs.machine
        if self.site.fabric.ring_matmuls or self.site.work is not None:
            seconds = costs.head_matmul_s(users, k, n, tile_bytes, peak)
            return Kernel("lm_head_matmul", seconds, m.worker_cores)
        # As many matmuls as L1 requires, each with all blocks of the activation.
        blocks = costs.multicast_blocks(k, k)
        splits = -(-n // (HEAD_COLUMNS_PER_CORE * blocks))
        seconds = costs.bank_matmul_s(users, k, n, tile_bytes, peak, splits * blocks)
        return Kernel("lm_head_matmul", seconds, m.bank_cores)

    def bind(self, chip: ChipBinder, h: F32, head: tuple[WeightId, ...]) -> F32:
        """Multiply piece by piece, then sum."""
        reduced = chip.collective(self._sum)
        read = chip.read_activation(self.site, Weight.LM_HEAD, h)
        start = 0
        for piece in head:
            with chip.weight(self.site, piece) as w:
                stop = start + w.width
                self._multiply(chip, read, w, reduced.term[:, start:stop])
            start = stop
        logits: F32 = reduced.cross()
        return logits

    def _multiply(self, chip: ChipBinder, read: F32, w: Operand, out: F32) -> None:
        w.multiply(read, out, None)


class FusedLogits(Logits):
    """Galaxy, decode: terms are added where they arrive."""

    def charges(self, costs: "Costs") -> Iterator[Charge]:
        """Two ops."""
        yield self._matmul(costs)
        yield from add_at_once_charges(self, costs, self._sum, "all_reduce_lm_head")


class PrefillLogits(Logits):
    """Prefill, all systems: a tile of 32 rows per user, of which one row is kept."""

    @property
    def n_rows(self) -> int:
        """One row per user."""
        assert self.site.work is not None
        return self.site.work.n_users

    @property
    def _sum(self) -> Wire:
        return self._wire((TILE, self.shape.device_vocab), (self.n_rows, self.shape.vocab))

    def charges(self, costs: "Costs") -> Iterator[Charge]:
        """One tile of rows, as in decode: matmul, reduce-scatter, all-gather."""
        yield self._matmul(costs)
        wire = self._sum
        parts = self.site.size(wire.axis)
        for rides in (False, True):
            name = "all_reduce_lm_head"
            yield from self.cross(costs, wire, name=name, parts=parts, rides=rides)

    def links(self, wire: Wire) -> float | None:
        """Return the links of an all-gather, for both halves."""
        return self.site.fabric.gather_links

    def _multiply(self, chip: ChipBinder, read: F32, w: Operand, out: F32) -> None:
        """Multiply tile by tile, so that a user's bits do not depend on other users."""
        assert self.site.work is not None
        w.multiply_one_of_each(read, out, chip.last_rows(self.site.work))


class AllLogits(PrefillLogits):
    """Prefill: the logits of every row, (S, V/R), for callers that compare."""

    @property
    def n_rows(self) -> int:
        """All of them."""
        return self.rows

    def _multiply(self, chip: ChipBinder, read: F32, w: Operand, out: F32) -> None:
        assert self.site.work is not None
        w.multiply(read, out, chip.prompt_rows(self.site.work, slice(0, len(read))))
