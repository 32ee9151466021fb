"""Prefill and decode: the programs of both modes, bound when they are first needed, and run.

A decode step is one program. A prefill pass has one for each shape (`PassShape`); the last ones used
are kept. All programs of a chip share its arrays, and the memory in which collectives meet.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from galaxy_mpi.arrays import F32, Ints
from galaxy_mpi.engine.chips import Chips, Held
from galaxy_mpi.models import Decoder
from galaxy_mpi.prefetch import DirectFeed, PrefetchFeed, Prefetcher, PrefetchStats
from galaxy_mpi.program import BoundProgram, Program, Tap, bind_program
from galaxy_mpi.systems import (
    ChipBinder,
    PageTable,
    PassShape,
    PrefillPass,
    Site,
    System,
    WeightFeed,
)

__all__ = ["DecodeMode", "ModeTotals", "PrefillMode"]

MOST_PASS_ROWS = 16_384
"""Rows of all prefill programs that are kept; at least one is."""


@dataclass
class ModeTotals:
    """What a mode has cost since the beginning of the run."""

    collectives_s: float = 0.0
    prefetch: PrefetchStats = field(default_factory=PrefetchStats)
    sent_bytes: int = 0
    """Of one chip's messages in the largest program."""


class Clocks(Protocol):
    """Device clocks of the chips of a run, see `galaxy_mpi.engine.run_clock`."""

    def options(self, held: Held, program: Program, work: PassShape | None) -> dict[str, Any]:
        """Return the options of the `Binder` of a chip: its clock, and what is charged."""


class NoClocks:
    """Stands for clocks where the device has no such numbers."""

    def options(self, held: Held, program: Program, work: PassShape | None) -> dict[str, Any]:
        """Return nothing."""
        return {}


class _Mode:
    def __init__(
        self, chips: Chips, users: int, system: System, clocks: Clocks, taps: tuple[Tap, ...]
    ) -> None:
        self.chips, self.system, self._clocks, self._taps = chips, system, clocks, taps
        self._shape = chips.layout.chip_shape(users)
        self.totals = ModeTotals()

    def _site(self, work: PassShape | None, *, prefetch: bool) -> Site:
        chips = self.chips
        return Site(
            mesh=chips.mesh,
            shape=self._shape,
            precision=chips.precision,
            fabric=self.system.fabric,
            prefetch=prefetch,
            work=work,
            modules=chips.modules,
        )

    def _bind(
        self, program: Program, feeds: list[WeightFeed], algorithms: Any, work: PassShape | None
    ) -> tuple[BoundProgram, list[dict[str, F32]]]:
        chips = self.chips
        shapes = {name: tensor.shape for name, tensor in program.inputs.items()}
        inputs = chips.new_inputs(shapes)
        binders = [
            ChipBinder(
                chips.mesh,
                chips.planes,
                algorithms,
                held.state,
                feed,
                pool=held.pool,
                codecs=chips.codecs,
                taps=self._taps,
                **self._clocks.options(held, program, work),
            )
            for held, feed in zip(chips.held, feeds, strict=True)
        ]
        return bind_program(program, binders, inputs, chips.planes), inputs

    def _run(self, bound: BoundProgram) -> None:
        before = bound.crossings_s
        with np.errstate(over="ignore"):  # silu of a very negative gate
            bound.run()
        self.totals.collectives_s += bound.crossings_s - before


class DecodeMode(_Mode):
    """One token of all users at a time.

    Parameters
    ----------
    chips : Chips
    users : int
        Places of the batch.
    system : System
    prefetcher : Prefetcher or None
        None: weights are unpacked when they are used.
    clocks : Clocks
    taps : tuple of Tap
    """

    name = "decode"

    def __init__(
        self,
        chips: Chips,
        users: int,
        system: System,
        prefetcher: Prefetcher | None,
        clocks: Clocks | None = None,
        taps: tuple[Tap, ...] = (),
    ) -> None:
        super().__init__(chips, users, system, clocks or NoClocks(), taps)
        self._prefetcher = prefetcher
        self._bound: dict[bool, tuple[BoundProgram, list[dict[str, F32]]]] = {}
        self._storage: list[F32] | None = None

    def program(self, *, all_logits: bool = False) -> BoundProgram:
        """Return the program of a step, bound when it is asked for first."""
        return self._ready(all_logits)[0]

    def run(
        self, tokens_B: Ints, tables: Mapping[int, PageTable], *, all_logits: bool = False
    ) -> BoundProgram:
        """Run a step.

        Parameters
        ----------
        tokens_B : ndarray of shape (B,)
            Of all users.
        tables : mapping of int to PageTable
            Where the users of each column are; of the columns of this process.
        all_logits : bool
            Whether the result is the logits of the whole vocabulary.

        Returns
        -------
        BoundProgram
            With the results, which the next run overwrites.
        """
        bound, inputs = self._ready(all_logits)
        for held, arrays, binder in zip(self.chips.held, inputs, bound.chips, strict=True):
            table = tables[binder.col]
            held.state.inputs.table = table
            held.inputs = arrays
            self.chips.fill(held, tokens_B, table.positions_B)
        if self._prefetcher is not None:
            self._prefetcher.plan(bound.calls)
            self._prefetcher.begin_step()
        self._run(bound)
        if self._prefetcher is not None:
            self._prefetcher.end_step()
        return bound

    def free(self) -> None:
        """Give back what the programs hold."""
        for bound, _ in self._bound.values():
            bound.free()
        self._bound.clear()
        if self._prefetcher is not None:
            self._prefetcher.close()

    def _ready(self, all_logits: bool) -> tuple[BoundProgram, list[dict[str, F32]]]:
        found = self._bound.get(all_logits)
        if found is None:
            site = self._site(None, prefetch=self._prefetcher is not None)
            decoder = Decoder(self.chips.model, self.system, site, self.chips.head)
            program = decoder.decode(all_logits=all_logits)
            found = self._bind(program, self._feeds(), self.system.decode_algorithms, None)
            self._bound[all_logits] = found
        return found

    def _feeds(self) -> list[WeightFeed]:
        chips, prefetcher = self.chips, self._prefetcher
        n_values = chips.largest if prefetcher is None else chips.buffer_bytes // 4
        if self._storage is None:
            self._storage = [np.empty(n_values, np.float32) for _ in chips.held]
        if prefetcher is None:
            stats = self.totals.prefetch
            stats.peak_bytes = stats.capacity_bytes = 4 * n_values
            return [
                DirectFeed(held.weights.tensors, storage)
                for held, storage in zip(chips.held, self._storage, strict=True)
            ]
        self.totals.prefetch = prefetcher.stats
        return [
            PrefetchFeed(prefetcher, held.weights.tensors, storage)
            for held, storage in zip(chips.held, self._storage, strict=True)
        ]


class PrefillMode(_Mode):
    """Whole prompts, weights unpacked when they are used.

    Parameters
    ----------
    chips, users, system, clocks, taps
        As in `DecodeMode`.
    """

    name = "prefill"

    def __init__(
        self,
        chips: Chips,
        users: int,
        system: System,
        clocks: Clocks | None = None,
        taps: tuple[Tap, ...] = (),
    ) -> None:
        super().__init__(chips, users, system, clocks or NoClocks(), taps)
        self._storage = [np.empty(chips.largest, np.float32) for _ in chips.held]
        stats = self.totals.prefetch
        stats.peak_bytes = stats.capacity_bytes = 4 * chips.largest
        self._kept: OrderedDict[Any, tuple[BoundProgram, list[dict[str, F32]]]] = OrderedDict()

    def run(
        self, work: PrefillPass, *, all_logits: bool = False, all_rows: bool = False
    ) -> BoundProgram:
        """Run a pass; see `DecodeMode.run` and `Decoder.prefill`."""
        key = (work.shape, all_logits, all_rows)
        found = self._kept.get(key)
        if found is None:
            found = self._kept[key] = self._bind_pass(work.shape, all_logits, all_rows)
            self._forget()
        self._kept.move_to_end(key)
        bound, inputs = found
        tokens, positions = work.tokens, work.positions
        for held, arrays in zip(self.chips.held, inputs, strict=True):
            held.state.inputs.work = work
            held.inputs = arrays
            self.chips.fill(held, tokens, positions)
            residual = self.chips.precision.of(0).prefill_residual
            arrays["x"][...] = residual.round(arrays["x"])
        self._run(bound)
        return bound

    def free(self) -> None:
        """Give back what the programs hold."""
        for bound, _ in self._kept.values():
            bound.free()
        self._kept.clear()

    def _bind_pass(
        self, shape: PassShape, all_logits: bool, all_rows: bool
    ) -> tuple[BoundProgram, list[dict[str, F32]]]:
        site = self._site(shape, prefetch=False)
        decoder = Decoder(self.chips.model, self.system, site, self.chips.head)
        program = decoder.prefill(all_logits=all_logits, all_rows=all_rows)
        feeds: list[WeightFeed] = [
            DirectFeed(held.weights.tensors, storage)
            for held, storage in zip(self.chips.held, self._storage, strict=True)
        ]
        return self._bind(program, feeds, self.system.prefill_algorithms, shape)

    def _forget(self) -> None:
        """Drop the programs that were used least recently, on all ranks alike."""
        n_rows = sum(shape.n_rows for shape, *_ in self._kept)
        while n_rows > MOST_PASS_ROWS and len(self._kept) > 1:
            (shape, *_), (bound, _) = self._kept.popitem(last=False)
            n_rows -= shape.n_rows
            bound.free()


LayerHook = Callable[[int], None]


def at_layer_ends(program: Program, hook: LayerHook) -> Tap:
    """Return what calls ``hook`` with the number of each layer when it has run."""
    last = {use.layer: use for use in program.uses}

    def tap(chip: Any, use: Any, outputs: tuple[Any, ...]) -> None:
        if use.layer >= 0 and last[use.layer] is use:
            chip.call(hook, use.layer)

    return tap
