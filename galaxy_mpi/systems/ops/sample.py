"""From this row's logits to the candidates of all rows, among which every chip chooses alike.

References
----------
.. [1] tt-metal, models/common/sampling/.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from galaxy_mpi.arrays import F32, Ints
from galaxy_mpi.ccl.wire import BufferKey, Format, Index, Kind, Wire
from galaxy_mpi.dtypes import FLOAT32, TILE, padded
from galaxy_mpi.kernels import TopK
from galaxy_mpi.mesh import Axis
from galaxy_mpi.program import Bound, Charge, Cuts, Kernel, Spent, Tensor
from galaxy_mpi.systems.chip import ChipBinder
from galaxy_mpi.systems.ops.base import SystemOp
from galaxy_mpi.systems.site import SAMPLED

if TYPE_CHECKING:
    from galaxy_mpi.timing.costs import Costs

__all__ = ["GatherLogits", "HostSample", "Sample"]


class HostSample(SystemOp):
    """The best 32 of each row, gathered over the rows: values, and numbers within the slice.

    On the clock of the generic system the host chooses. Logits are gathered in the place of
    the candidates, laid out in rows, read from one chip whole, 32 rows whatever the users, turned
    into float32 and chosen from, user by user.

    References
    ----------
    .. [1] tt-metal, tt_transformers/tt/model.py, ``process_output_decode``.
    """

    name = "sample"

    def __call__(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Return values and token numbers of the candidates, (R, B, k) each."""
        shape = (self.site.size(Axis.COLUMN), logits.shape[0], min(SAMPLED, self.shape.vocab))
        values, tokens = self.record(logits.program, (logits,), values=shape, tokens=shape)
        return values, tokens

    def cuts(self) -> Cuts:
        """Return the sharding of its outputs."""
        return dict.fromkeys(("values", "tokens"), ((), (), ()))

    def _gather(self, key: str, dtype: Format) -> Wire:
        # A tile wide; prefill samples one tile of rows whatever the users.
        work, width = self.site.work, min(SAMPLED, self.shape.vocab)
        n_rows = self.shape.users if work is None else work.n_users
        shape = (padded(self.shape.users), SAMPLED)
        return Wire(key, Axis.COLUMN, Kind.ALL_GATHER, dtype, shape, (n_rows, width), links=1)

    @property
    def _values(self) -> Wire:
        return self._gather(BufferKey.SAMPLING_VALUES, self.formats.candidates)

    @property
    def _tokens(self) -> Wire:
        index = Index(2 if self.shape.vocab <= 2**16 else 4)
        return self._gather(BufferKey.SAMPLING_INDICES, index)

    def wires(self) -> tuple[Wire, ...]:
        """Return the gathers of values and of token numbers."""
        return (self._values, self._tokens)

    def free_wires(self) -> tuple[Wire, ...]:
        """Return the gather of token numbers: the device's host reads all logits."""
        return (self._tokens,)

    def charges(self, costs: "Costs") -> Iterator[Charge]:
        """Gather, layout, and the host."""
        shape, m, work = self.shape, costs.machine, self.site.work
        vocab = shape.vocab * self.site.size(Axis.COLUMN)
        block = 2 * TILE * shape.device_vocab
        yield from self.cross(costs, self._values, name="all_gather_logits", block_bytes=block)
        elements = TILE * vocab
        passes_s = costs.vector_s(elements, m.worker_cores, 1)
        terms = {Bound.VECTOR: passes_s, Bound.DRAM: 4 * elements / m.dram_bytes_per_s}
        untilized = Spent.longest(m.launch_s, terms, dram_bytes=4 * elements)
        yield Kernel("untilize_logits", untilized, m.worker_cores)
        n_users = shape.users if work is None else work.n_users
        host_s = m.host_step_s + 2 * elements / m.host_bytes_per_s
        host_s += n_users * vocab * m.host_value_s
        if work is not None and shape.users > 1:
            host_s += n_users * m.host_prompt_s
        yield Kernel("host", Spent(host_s, Bound.HOST), 0, has_gap=False)

    def bind(self, chip: ChipBinder, logits: F32) -> tuple[F32, Ints]:
        """Choose this row's best; padding of the vocabulary is never among them."""
        n_valid = chip.state.n_valid_tokens
        if n_valid < logits.shape[1]:
            chip.call(logits[:, n_valid:].fill, -np.inf)
        gathered = chip.collective(self._values)
        best = np.empty(self._tokens.sent, np.int64)
        chip.call(TopK(logits, gathered.term, best).find_best)
        values = chip.array(self.site.size(Axis.COLUMN), *self._values.sent)
        chip.call(np.copyto, values, gathered.cross())
        numbers = chip.collective(self._tokens)
        chip.call(np.copyto, numbers.term, best, "unsafe")
        tokens = np.empty(values.shape, np.int64)
        chip.call(np.copyto, tokens, numbers.cross(), "unsafe")
        return values, tokens


class Sample(HostSample):
    """Galaxy: tokens are chosen on the chips."""

    def charges(self, costs: "Costs") -> Iterator[Charge]:
        """Copies and casts, top-k, two gathers, the choice with a core for each user."""
        shape, m = self.shape, costs.machine
        elements = -(-shape.users // 32) * (shape.device_vocab // 32) * 1024
        copied_s = 2 * elements * 2 / m.dram_bytes_per_s
        yield Kernel("reshards", m.reshard_ops * (m.launch_s + copied_s), m.worker_cores)
        cast_s = costs.elementwise_s(elements, m.worker_cores, m.typecast_passes)
        yield Kernel("typecasts", 2 * cast_s, m.worker_cores)
        # Sorted in a power of two of values (tt-metal, ``pad_logits_to_power_of_2``).
        width = 1 << (shape.device_vocab - 1).bit_length()
        sorted_elements = -(-shape.users // 32) * (width // 32) * 1024
        yield self.elementwise(costs, "top_k", sorted_elements, m.worker_cores, m.sort_passes)
        for name, wire in (
            ("all_gather_values", self._values),
            ("all_gather_indices", self._tokens),
        ):
            # Not persistent: a barrier goes round before the data does.
            yield from self.cross(costs, wire, name=name, laps=2)
        candidates = 32 * SAMPLED * self.site.size(Axis.COLUMN)
        seconds = costs.elementwise_s(candidates, 1, m.sampling_passes)
        yield Kernel("sampling", seconds, shape.users)
        if self.site.work is None:  # and on to the next step
            yield Kernel("sampling_gap", m.sampling_gap_s, 0, has_gap=False)
            yield Kernel("plus_one_gap", m.plus_one_gap_s, 0, has_gap=False)


class GatherLogits(SystemOp):
    """The whole vocabulary on every chip, for callers in Python: no op of the device."""

    name = "gather_logits"

    def __call__(self, logits: Tensor) -> Tensor:
        """Return the rows' slices, (R, B, V/R)."""
        shape = (self.site.size(Axis.COLUMN), *logits.shape)
        self._wire = Wire(BufferKey.LOGITS, Axis.COLUMN, Kind.ALL_GATHER, FLOAT32, logits.shape)
        (whole,) = self.record(logits.program, (logits,), whole=shape)
        return whole

    def cuts(self) -> Cuts:
        """Return the sharding of its outputs."""
        return {"whole": ((), (), ())}

    def wires(self) -> tuple[Wire, ...]:
        """Return the gather, in float32 whatever the formats."""
        return (self._wire,)

    def free_wires(self) -> tuple[Wire, ...]:
        """Return the gather: it is none of the device."""
        return self.wires()

    def charges(self, costs: "Costs") -> Iterator[Charge]:
        """Nothing."""
        return iter(())

    def bind(self, chip: ChipBinder, logits: F32) -> F32:
        """Gather."""
        gathered = chip.collective(self._wire)
        chip.call(np.copyto, gathered.term, logits)
        whole = chip.array(self.site.size(Axis.COLUMN), *logits.shape)
        chip.call(np.copyto, whole, gathered.cross())
        return whole
