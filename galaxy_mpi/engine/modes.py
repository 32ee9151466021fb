"""Prefill and decode: binding the programs of both modes on first use, and running them.

Decode has one program. Prefill has one per shape of a pass (`PassShape`), and the most recently
used are kept. All programs of a chip share its arrays and the memory of collectives.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from galaxy_mpi.arrays import F32, Ints
from galaxy_mpi.ccl.algorithms import Algorithms
from galaxy_mpi.engine.chips import Chips
from galaxy_mpi.engine.value_checks import Replicas, finite, finite_logits
from galaxy_mpi.mesh.plane import Crossing
from galaxy_mpi.models.programs import Programs
from galaxy_mpi.prefetch import DirectFeed, Prefetcher, PrefetchFeed, PrefetchStats
from galaxy_mpi.program import BoundProgram, Program, Tap, Timeline, bind_program
from galaxy_mpi.systems import ChipBinder, PageTable, PassShape, PrefillPass, WeightFeed
from galaxy_mpi.timing.run_clock import ProgramClocks

__all__ = [
    "DecodeMode",
    "MakeTap",
    "ModeTotals",
    "NoClock",
    "PrefillMode",
    "Ready",
    "Watcher",
    "at_layer_ends",
]

MakeTap = Callable[[Program], Tap]

MOST_PASS_ROWS = 16_384
"""Total rows of the prefill programs that are kept; at least one program is."""


@dataclass
class ModeTotals:
    """Cost of a mode since the beginning of the run."""

    collectives_s: float = 0.0
    prefetch: PrefetchStats = field(default_factory=PrefetchStats)


class Timekeeper(Protocol):
    """Keeps device time of the chips of a process: `galaxy_mpi.timing.RunClock`, or `NoClock`."""

    def of(self, program: Program) -> ProgramClocks | None:
        """Return clocks for a program that is about to be bound; None for no device time."""

    def start(
        self, clocks: ProgramClocks, *, positions: Sequence[int] = (), work: Any = None
    ) -> None:
        """Begin a step or a pass at time 0."""


class NoClock:
    """No device time: for formats that the device does not have, or if logits are requested."""

    def of(self, program: Program) -> None:
        """Return nothing."""

    def start(
        self, clocks: ProgramClocks, *, positions: Sequence[int] = (), work: Any = None
    ) -> None:
        """Do nothing."""


@dataclass(frozen=True)
class Ready:
    """A bound program."""

    bound: BoundProgram
    inputs: list[dict[str, F32]]
    """Of each chip of the process."""
    clocks: ProgramClocks | None

    def results(self, name: str) -> list[Any]:
        """Return a result's array on each chip, overwritten by the next run."""
        return self.bound.results(name)


class Watcher(Protocol):
    """Observes the values of every pass and step."""

    def tap(self, program: Program) -> Tap:
        """Return a tap for a program."""

    def start(self, mode: str) -> None:
        """Begin a pass or a step."""

    def end(self, program: Program) -> None:
        """End it; collective."""


class _Mode:
    def __init__(
        self,
        chips: Chips,
        programs: Programs,
        device: Timekeeper,
        taps: Sequence[MakeTap],
        watchers: Sequence[Watcher],
    ) -> None:
        self.chips, self.programs, self._device = chips, programs, device
        checked: list[Watcher] = [Replicas(chips.mesh, chips.transport)] if chips.run.check else []
        self._watchers = [*checked, *watchers]
        looks = finite if chips.run.check else finite_logits
        self._taps = [looks, *(watcher.tap for watcher in self._watchers), *taps]
        self.system = programs.system
        self.totals = ModeTotals()
        self.note: Callable[[Crossing], None] | None = None
        self.timeline: Timeline | None = None

    def _bind(self, program: Program, feeds: Sequence[WeightFeed], algorithms: Algorithms) -> Ready:
        chips, taps = self.chips, tuple(make(program) for make in self._taps)
        shapes = {name: tensor.shape for name, tensor in program.inputs.items()}
        inputs, clocks = chips.new_inputs(shapes), self._device.of(program)
        binders = []
        for number, (held, feed) in enumerate(zip(chips.held, feeds, strict=True)):
            options: dict[str, Any] = {}
            if clocks is not None:
                clock = clocks.chips[number]
                options = {"clock": clock, "is_charged": clock.is_charged}
            binders.append(
                ChipBinder(
                    chips.mesh,
                    chips.planes,
                    algorithms,
                    held.state,
                    feed,
                    pool=held.pool,
                    codecs=chips.codecs,
                    poisons=chips.run.check,
                    taps=taps,
                    **options,
                )
            )
        bound = bind_program(
            program, binders, inputs, chips.planes, note=self.note, timeline=self.timeline
        )
        return Ready(bound, inputs, clocks)

    def _run(self, bound: BoundProgram) -> None:
        before = bound.crossings_s
        for watcher in self._watchers:
            watcher.start(bound.program.mode)
        with np.errstate(
            all="ignore"
        ):  # silu of a very negative gate overflows; logits are checked
            bound.run()
        for watcher in self._watchers:
            watcher.end(bound.program)
        self.totals.collectives_s += bound.crossings_s - before


class DecodeMode(_Mode):
    """Decode steps: one token of all users at a time.

    Parameters
    ----------
    chips : Chips
    programs : Programs
    prefetcher : Prefetcher or None
        None: weights are unpacked when used.
    device : Timekeeper
    taps : sequence of callable
        Each makes a tap, given the program.
    watchers : sequence of Watcher
    """

    name = "decode"

    def __init__(
        self,
        chips: Chips,
        programs: Programs,
        prefetcher: Prefetcher | None,
        device: Timekeeper | None = None,
        taps: Sequence[MakeTap] = (),
        watchers: Sequence[Watcher] = (),
    ) -> None:
        super().__init__(chips, programs, device or NoClock(), taps, watchers)
        self._prefetcher = prefetcher
        self._bound: dict[bool, Ready] = {}
        self._storage: list[F32] | None = None
        self._planned: Ready | None = None

    def run(
        self,
        tokens_B: Ints,
        tables: Mapping[int, PageTable],
        positions: Sequence[int] = (),
        *,
        all_logits: bool = False,
    ) -> Ready:
        """Run a step.

        Parameters
        ----------
        tokens_B : ndarray of shape (B,)
            Of all users.
        tables : mapping of int to PageTable
            Page tables of the columns of this process.
        positions : sequence of int
            Position of the longest user in each column of the mesh, for device time.
        all_logits : bool
            Whether the result is the logits of the whole vocabulary.

        Returns
        -------
        Ready
            With the results, which the next run overwrites.
        """
        ready = self.ready(all_logits=all_logits)
        for held, arrays, binder in zip(
            self.chips.held, ready.inputs, ready.bound.chips, strict=True
        ):
            table = tables[binder.col]
            held.state.inputs.table = table
            held.inputs = arrays
            self.chips.fill(held, tokens_B, table.positions_B)
        if ready.clocks is not None:
            self._device.start(ready.clocks, positions=positions)
        if self._prefetcher is not None:
            self._prefetcher.begin_step()
        self._run(ready.bound)
        if self._prefetcher is not None:
            self._prefetcher.end_step()
        return ready

    @property
    def sent_bytes(self) -> int:
        """Bytes of one chip's messages, twice because their memory is double-buffered."""
        return sum(
            2 * wire.sent_bytes
            for ready in self._bound.values()
            for wire in {wire.key: wire for _, wire in ready.bound.program.wires()}.values()
        )

    def abandon(self) -> None:
        """End only the prefetcher's thread."""
        if self._prefetcher is not None:
            self._prefetcher.close()

    def free(self) -> None:
        """Release what the programs hold."""
        for ready in self._bound.values():
            ready.bound.free()
        self._bound.clear()
        if self._prefetcher is not None:
            self._prefetcher.close()

    def ready(self, *, all_logits: bool = False) -> Ready:
        """Return the program of a step, bound on first use."""
        found = self._bound.get(all_logits)
        if found is None:
            program = self.programs.decode(all_logits=all_logits)
            found = self._bind(program, self._feeds(), self.system.decode_algorithms)
            self._bound[all_logits] = found
        if self._prefetcher is not None and found is not self._planned:
            self._prefetcher.plan(found.bound.calls)
            self._planned = found
        return found

    def _feeds(self) -> list[WeightFeed]:
        chips, prefetcher = self.chips, self._prefetcher
        n_values = chips.largest if prefetcher is None else chips.buffer_bytes // 4
        if self._storage is None:
            self._storage = [np.empty(n_values, np.float32) for _ in chips.held]
        if prefetcher is None:
            stats = self.totals.prefetch
            stats.peak_bytes = stats.capacity_bytes = max(4 * n_values, chips.piece_bytes)
            return [
                DirectFeed(held.weights.tensors, storage)
                for held, storage in zip(chips.held, self._storage, strict=True)
            ]
        stats = self.totals.prefetch = prefetcher.stats
        stats.peak_bytes = stats.capacity_bytes = chips.piece_bytes
        return [
            PrefetchFeed(prefetcher, held.weights.tensors, storage)
            for held, storage in zip(chips.held, self._storage, strict=True)
        ]


class PrefillMode(_Mode):
    """Prefill passes; weights are unpacked when used.

    Parameters
    ----------
    chips, programs, device, taps, watchers
        As in `DecodeMode`.
    """

    name = "prefill"

    def __init__(
        self,
        chips: Chips,
        programs: Programs,
        device: Timekeeper | None = None,
        taps: Sequence[MakeTap] = (),
        watchers: Sequence[Watcher] = (),
    ) -> None:
        super().__init__(chips, programs, device or NoClock(), taps, watchers)
        self._storage = [np.empty(chips.largest, np.float32) for _ in chips.held]
        stats = self.totals.prefetch
        stats.peak_bytes = stats.capacity_bytes = max(4 * chips.largest, chips.piece_bytes)
        self._kept: OrderedDict[tuple[PassShape, bool, bool, int], Ready] = OrderedDict()

    def run(
        self,
        work: PrefillPass,
        *,
        all_logits: bool = False,
        all_rows: bool = False,
        behind: Sequence[Sequence[F32]] = (),
    ) -> Ready:
        """Run a pass; see `DecodeMode.run` and `Decoder.prefill`.

        Parameters
        ----------
        behind : sequence of sequence of ndarray of shape (S, D/C)
            Residual streams after the first layers, per chip of the process; these layers are not
            run.
        """
        key = (work.shape, all_logits, all_rows, len(behind))
        ready = self._kept.get(key)
        if ready is None:
            ready = self._kept[key] = self._bind_pass(*key)
            self._forget()
        self._kept.move_to_end(key)
        tokens, positions = work.tokens, work.positions
        stream = self.chips.precision.of(0).prefill.layer_input
        for number, (held, arrays) in enumerate(zip(self.chips.held, ready.inputs, strict=True)):
            held.state.inputs.work = work
            held.inputs = arrays
            self.chips.fill(held, tokens, positions)
            arrays["x"][...] = behind[-1][number] if behind else stream.round(arrays["x"])
        if ready.clocks is not None:
            self._device.start(ready.clocks, work=work.shape)
        self._run(ready.bound)
        return ready

    def free(self) -> None:
        """Release what the programs hold."""
        for ready in self._kept.values():
            ready.bound.free()
        self._kept.clear()

    def _bind_pass(self, shape: PassShape, all_logits: bool, all_rows: bool, first: int) -> Ready:
        program = self.programs.prefill(
            shape, all_logits=all_logits, all_rows=all_rows, first=first
        )
        feeds = [
            DirectFeed(held.weights.tensors, storage)
            for held, storage in zip(self.chips.held, self._storage, strict=True)
        ]
        return self._bind(program, feeds, self.system.prefill_algorithms)

    def _forget(self) -> None:
        """Drop the least recently used programs, the same on all ranks."""
        n_rows = sum(shape.n_rows for shape, *_ in self._kept)
        while n_rows > MOST_PASS_ROWS and len(self._kept) > 1:
            (shape, *_), ready = self._kept.popitem(last=False)
            n_rows -= shape.n_rows
            ready.bound.free()


def at_layer_ends(hook: Callable[[int, tuple[Any, ...]], None]) -> MakeTap:
    """Return a maker of taps that call ``hook`` after every layer.

    Parameters
    ----------
    hook : callable
        Called with the number of the layer and the outputs of its last op.
    """

    def make(program: Program) -> Tap:
        last = {use.layer: use for use in program.uses}

        def tap(chip: Any, use: Any, outputs: tuple[Any, ...]) -> None:
            if use.layer >= 0 and last[use.layer] is use:
                chip.call(hook, use.layer, outputs)

        return tap

    return make
