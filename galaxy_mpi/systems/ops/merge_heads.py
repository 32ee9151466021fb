"""Decode: gather the users of all columns and concatenate their heads."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from galaxy_mpi.arrays import F32
from galaxy_mpi.ccl.wire import BufferKey, Kind, Wire
from galaxy_mpi.dtypes import padded
from galaxy_mpi.mesh import Axis
from galaxy_mpi.program import Charge, Cuts, Tensor
from galaxy_mpi.systems.chip import ChipBinder
from galaxy_mpi.systems.ops.base import SystemOp
from galaxy_mpi.systems.ops.qkv_heads import of_users

if TYPE_CHECKING:
    from galaxy_mpi.timing.costs import Costs

__all__ = ["FusedMergeHeads", "MergeHeads"]


class MergeHeads(SystemOp):
    """Generic: concatenate, all-gather, select the users."""

    name = "merge_heads"

    def __call__(self, mixed: Tensor) -> Tensor:
        """Return all users' concatenated heads of this row: (B, N/R * H)."""
        shape = self.shape
        (out,) = self.record(mixed.program, (mixed,), out=(shape.users, shape.mixed))
        return out

    def cuts(self) -> Cuts:
        """Return the sharding of its outputs."""
        return {"out": ((), (Axis.COLUMN,))}

    def parts(self) -> Mapping[str, str]:
        """Return the part of the model that its output holds."""
        return {"out": "heads"}

    @property
    def _gather(self) -> Wire:
        # Each column's users are sent as a padded tile.
        sent = (self.shape.users_each, self.shape.mixed)
        shape, dtype = tuple(padded(n) for n in sent), self.formats.attention
        return Wire(BufferKey.CONCAT_HEADS, Axis.ROW, Kind.ALL_GATHER, dtype, shape, sent)

    def wires(self) -> tuple[Wire, ...]:
        """Return the gather of the users."""
        return (self._gather,)

    def charges(self, costs: "Costs") -> Iterator[Charge]:
        """Three ops: concatenate, all-gather, selection of the users."""
        yield from of_users(self, costs, "concat_heads", self.shape.mixed)
        yield from self.cross(costs, self._gather, name="all_gather_users")
        yield from of_users(self, costs, "select_users", self.shape.mixed)

    def bind(self, chip: ChipBinder, mixed: F32) -> F32:
        """Gather the columns' users along the first dim."""
        gathered = chip.collective(self._gather)
        chip.call(np.copyto, gathered.term, mixed.reshape(self._gather.sent))
        rows: F32 = gathered.cross().reshape(-1, self.shape.mixed)
        return rows


class FusedMergeHeads(MergeHeads):
    """Galaxy: the gather over users also concatenates the heads (op 7).

    References
    ----------
    .. [1] tt-metal, llama_ccl.py, ``TT_CCL.all_gather_concat``.
    """

    @property
    def _gather(self) -> Wire:
        # Rows of users are sent, not tiles.
        shape, dtype = (self.shape.users_each, self.shape.mixed), self.formats.attention
        return Wire(BufferKey.CONCAT_HEADS, Axis.ROW, Kind.ALL_GATHER, dtype, shape)

    def charges(self, costs: "Costs") -> Iterator[Charge]:
        """One op."""
        yield from self.cross(costs, self._gather, costs.machine.stage_s, name="all_gather_concat")
