"""What a chip offers to ops when they bind: weights, caches, inputs of a step, matmuls."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from galaxy_mpi.arrays import F32, Ints
from galaxy_mpi.ccl.algorithms import Algorithms
from galaxy_mpi.ccl.builder import Bound
from galaxy_mpi.ccl.wire import Wire
from galaxy_mpi.dtypes import FLOAT32, TILE, DType, padded
from galaxy_mpi.kernels import column_parts
from galaxy_mpi.mesh import Axis, Mesh
from galaxy_mpi.mesh.plane import Label, Plane
from galaxy_mpi.prefetch import ProductRows, WeightStream
from galaxy_mpi.program import Binder, Tap
from galaxy_mpi.program.asked import Asked, Making
from galaxy_mpi.program.codecs import Codecs
from galaxy_mpi.program.pool import ArrayPool
from galaxy_mpi.systems.kv_cache import KVCache, PageTable
from galaxy_mpi.systems.prefill_pass import PassShape, PrefillPass
from galaxy_mpi.systems.site import Site
from galaxy_mpi.systems.workspace import Workspace
from galaxy_mpi.weights import VectorId, Weight, WeightId

__all__ = ["ChipBinder", "ChipState", "Operand", "StepInputs", "WeightFeed"]


class WeightFeed(Protocol):
    """Provides the weights of a program."""

    def take(self, chip: Binder, weight: WeightId) -> F32:
        """Add the calls that make a weight (in, out) available; return its array."""

    def done(self, chip: Binder) -> None:
        """Add the release of the weight taken last."""


@dataclass
class StepInputs:
    """Inputs of a step or pass, filled in before it runs."""

    table: PageTable | None = None
    """Decode: page table of this column's users."""
    work: PrefillPass | None = None
    """Prefill: the users of the pass."""
    positions: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    """Positions of the rows to rotate."""

    @property
    def pass_now(self) -> PrefillPass:
        """The pass that runs."""
        assert self.work is not None
        return self.work


@dataclass
class ChipState:
    """State of a chip that both modes share for the whole run."""

    rank: int
    vectors: Mapping[VectorId, F32]
    caches: list[KVCache]
    """One per layer."""
    n_valid_tokens: int
    """Tokens in this row's shard of the vocabulary, without padding."""
    workspace: Workspace
    """May be shared by the chips of a process."""
    inputs: StepInputs = field(default_factory=StepInputs)
    heads: tuple[int, ...] = ()
    """Model-wide numbers of the query heads on this chip; -1: padding."""
    stream: WeightStream | None = None
    """Multiplies large weights piece by piece, where that is possible."""
    n_heads: int = 0
    """Number of query heads of the model."""
    kv_heads: tuple[int, ...] = ()


class Operand(Protocol):
    """A weight that a program is about to multiply by."""

    width: int
    """Columns of the product."""

    def multiply(self, x: F32, out: F32, rows: ProductRows | None) -> None:
        """Add products, without rounding.

        Parameters
        ----------
        x : ndarray of shape (M, K)
        out : ndarray of shape (M, N)
        rows : ProductRows, optional
            Which rows are needed; all, multiplied together, if it is None.
        """

    def multiply_one_of_each(self, x: F32, out: F32, rows: ProductRows) -> None:
        """Add products of one row of each block, without rounding.

        Parameters
        ----------
        x : ndarray of shape (M, K)
        out : ndarray of shape (number of blocks, N)
        rows : ProductRows
        """


class _Whole:
    """A weight that is unpacked as a whole."""

    def __init__(self, chip: "ChipBinder", w: F32) -> None:
        self._chip, self._w, self.width = chip, w, w.shape[1]

    def multiply(self, x: F32, out: F32, rows: ProductRows | None) -> None:
        """Add calls for each block."""
        for block in (slice(0, len(x)),) if rows is None else rows.blocks:
            self._multiply(x[block], out[block])

    def multiply_one_of_each(self, x: F32, out: F32, rows: ProductRows) -> None:
        """Multiply whole blocks and keep a row of each."""
        height = max(block.stop - block.start for block in rows.blocks)
        product = self._chip.array(height, self.width)
        for number, block in enumerate(rows.blocks):
            self._multiply(x[block], product[: block.stop - block.start])
            self._chip.call(_keep, rows, number, product, out[number])

    def _multiply(self, x: F32, out: F32) -> None:
        """Add a call for each part of the columns."""
        for part in column_parts(len(x), len(self._w), self.width):
            self._chip.call(np.matmul, x, self._w[:, part], out[:, part])


class _Streamed:
    """A weight that is unpacked piece by piece, each for all rows of a product."""

    def __init__(self, chip: "ChipBinder", stream: WeightStream, weight: WeightId) -> None:
        self._chip, self._stream, self._weight = chip, stream, weight
        self.width = stream.shape(weight)[1]

    def multiply(self, x: F32, out: F32, rows: ProductRows | None) -> None:
        """Add one call."""
        self._stream.multiply(self._chip, self._weight, x, out, rows)

    def multiply_one_of_each(self, x: F32, out: F32, rows: ProductRows) -> None:
        """Add one call, and copy the whole tiles that it writes."""
        product = self._chip.array(padded(len(out), TILE), self.width)
        self._stream.multiply(self._chip, self._weight, x, product, rows, packs=True)
        self._chip.call(np.copyto, out, product[: len(out)])


def _keep(rows: ProductRows, number: int, product: F32, out: F32) -> None:
    """Keep the row in use of a block."""
    np.copyto(out, product[rows.used()[number].start - rows.blocks[number].start])


class ChipBinder(Binder):
    """A `Binder` with access to the chip's weights, caches and inputs.

    Parameters
    ----------
    mesh, planes, algorithms
        As in `Binder`.
    state : ChipState
    weights : WeightFeed
    pool, codecs, taps, poisons
        As in `Binder`.
    """

    def __init__(
        self,
        mesh: Mesh,
        planes: Mapping[Axis, Plane],
        algorithms: Algorithms,
        state: ChipState,
        weights: WeightFeed,
        *,
        pool: ArrayPool | None = None,
        codecs: Codecs | None = None,
        taps: tuple[Tap, ...] = (),
        poisons: bool = False,
    ) -> None:
        self._making = Making()
        super().__init__(
            mesh,
            state.rank,
            planes,
            algorithms,
            pool=pool,
            codecs=codecs,
            taps=taps,
            poisons=poisons,
        )
        self.state, self.weights, self.inputs = state, weights, state.inputs
        self.workspace = state.workspace

    def bind_use(self, number: int) -> None:
        """Bind one op. All chips of a process bind it before any binds the next."""
        first = len(self.exchanged)
        super().bind_use(number)
        wires = [wire for _, wire in self.exchanged[first:] if self.size(wire.axis) > 1]
        self._making.end(self.where, wires)

    def label(self, wire: Wire) -> Label:
        """Return what all members must agree on in the next exchange."""
        self._making.note(self.where, wire)
        return super().label(wire)

    def collective(self, wire: Wire, *, by_rows: bool = False) -> Bound:
        """Return a collective to write to and cross, see `galaxy_mpi.ccl.builder.Bound`."""
        with self._making.allowed():
            return Asked(super().collective(wire, by_rows=by_rows), self._making)

    def slabs(self, wire: Wire, pieces: Sequence[slice] = ()) -> Iterator[tuple[slice, Bound]]:
        """Yield row ranges with their collectives, see `Binder.slabs`."""
        found = super().slabs(wire, pieces)
        return self._slabs(found)

    def _slabs(self, found: Iterator[tuple[slice, Bound]]) -> Iterator[tuple[slice, Bound]]:
        while True:
            with self._making.allowed():
                slab = next(found, None)
            if slab is None:
                return
            yield slab[0], Asked(slab[1], self._making)

    def vector(self, vector: VectorId) -> F32:
        """Return a gain or a bias."""
        return self.state.vectors[vector]

    def round(self, dtype: DType, values: F32) -> None:
        """Round an array in place; float32 adds no call."""
        if dtype is not FLOAT32:
            self.call(self.codec(dtype, values.shape).round, values, values)

    def read_activation(self, site: Site, weight: Weight, x: F32) -> F32:
        """Return an activation as a weight's matmul reads it, given its fidelity."""
        mask = site.precision.activation_mask(weight, site.mode)
        if mask is None:
            return x
        cut = self.array(*x.shape)
        self.call(np.bitwise_and, x.view(np.uint32), mask, cut.view(np.uint32))
        return cut

    def _read_weight(self, site: Site, weight: WeightId) -> F32:
        """Take a weight as its matmul reads it."""
        w = self.weights.take(self, weight)
        precision = site.precision
        if not precision.cuts_inputs:
            return w
        fidelity = precision.fidelity(weight.weight, site.mode)
        if fidelity.reads_whole(precision.weight(weight.weight)):
            return w
        cut = self.array(*w.shape)
        self.call(np.bitwise_and, w.view(np.uint32), fidelity.weight_mask, cut.view(np.uint32))
        return cut

    @contextmanager
    def weight(self, site: Site, weight: WeightId) -> Iterator[Operand]:
        """Take a weight for some products; it is released at the end of the block."""
        stream = self.state.stream
        if stream is not None and stream.has(weight):
            yield _Streamed(self, stream, weight)
            return
        yield _Whole(self, self._read_weight(site, weight))
        self.weights.done(self)

    def matmul(self, site: Site, x: F32, weight: WeightId, out: F32) -> None:
        """Multiply by a weight without rounding; in prefill, in blocks of rows."""
        read = self.read_activation(site, weight.weight, x)
        rows = None if site.work is None else self.prompt_rows(site.work, slice(0, len(x)))
        with self.weight(site, weight) as w:
            w.multiply(read, out, rows)

    def prompt_rows(self, work: PassShape, window: slice) -> ProductRows:
        """Return the rows of a product of a range of a pass's rows; it begins with a block."""
        blocks = tuple(
            slice(block.start - window.start, block.stop - window.start)
            for block in work.row_blocks
            if window.start <= block.start < window.stop
        )
        inputs = self.inputs
        return ProductRows(blocks, lambda: inputs.pass_now.rows_in(window))

    def last_rows(self, work: PassShape) -> ProductRows:
        """Return the rows of a product of the users' last tiles, of which one row is needed."""
        tiles = tuple(slice(user * TILE, (user + 1) * TILE) for user in range(work.n_users))
        inputs = self.inputs
        return ProductRows(tiles, lambda: inputs.pass_now.last_rows)
