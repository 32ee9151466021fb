"""Prefill and decode: binding the programs of both modes on first use, and running them.

Decode has one program. Prefill has one per shape of a pass (`PassShape`), and the most recently
used are kept. All programs of a chip share its arrays and the memory of collectives.
"""

import gc
from collections import OrderedDict
from collections.abc import Mapping, Sequence

import numpy as np

from galaxy_mpi.arrays import F32, Ints
from galaxy_mpi.dtypes import FLOAT32
from galaxy_mpi.engine.chips import Chips
from galaxy_mpi.engine.mode import MakeTap, Mode, Ready, Watcher
from galaxy_mpi.models.programs import Programs
from galaxy_mpi.prefetch import DirectFeed, Prefetcher, PrefetchFeed
from galaxy_mpi.systems import PageTable, PassShape, PrefillPass, WeightFeed

__all__ = ["DecodeMode", "PrefillMode"]

MOST_PASS_ROWS = 16_384
"""Total rows of the prefill programs that are kept; at least one program is."""

LEAST_COUNTED_ROWS = 256
"""A program counts as at least so many rows, because its calls take memory too."""


class DecodeMode(Mode):
    """Decode steps: one token of all users at a time.

    Parameters
    ----------
    chips : Chips
    programs : Programs
    prefetcher : Prefetcher or None
        None: weights are unpacked when used.
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
        taps: Sequence[MakeTap] = (),
        watchers: Sequence[Watcher] = (),
    ) -> None:
        super().__init__(chips, programs, taps, watchers)
        self._prefetcher = prefetcher
        self._bound: dict[bool, Ready] = {}
        self._storage: list[F32] | None = None
        self._planned: Ready | None = None

    def run(
        self,
        tokens_B: Ints,
        tables: Mapping[int, PageTable],
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
        if self._prefetcher is not None:
            self._prefetcher.begin_step()
        self.play(ready.bound)
        if self._prefetcher is not None:
            self._prefetcher.end_step()
        return ready

    @property
    def sent_bytes(self) -> int:
        """Bytes of one chip's messages, with two buffers for each, as the device has them."""
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
            found = self.bind(program, self._feeds(), self.system.decode_algorithms)
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
            stats.peak_bytes = stats.capacity_bytes = max(
                4 * n_values, chips.piece_bytes(prefill=False)
            )
            return [
                DirectFeed(held.weights.tensors, storage)
                for held, storage in zip(chips.held, self._storage, strict=True)
            ]
        stats = self.totals.prefetch = prefetcher.stats
        stats.peak_bytes = stats.capacity_bytes = chips.piece_bytes(prefill=False)
        return [
            PrefetchFeed(prefetcher, held.weights.tensors, storage)
            for held, storage in zip(chips.held, self._storage, strict=True)
        ]


class PrefillMode(Mode):
    """Prefill passes; weights are unpacked when used.

    Parameters
    ----------
    chips, programs, taps, watchers
        As in `DecodeMode`.
    """

    name = "prefill"

    def __init__(
        self,
        chips: Chips,
        programs: Programs,
        taps: Sequence[MakeTap] = (),
        watchers: Sequence[Watcher] = (),
    ) -> None:
        super().__init__(chips, programs, taps, watchers)
        self._storage = [np.empty(chips.largest, np.float32) for _ in chips.held]
        stats = self.totals.prefetch
        stats.peak_bytes = stats.capacity_bytes = max(
            4 * chips.largest, chips.piece_bytes(prefill=True)
        )
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
            x = arrays["x"]
            if behind:
                np.copyto(x, behind[-1][number])
            elif stream is not FLOAT32:
                self.chips.codecs.get(stream, x.shape).round(x, x)
        self.play(ready.bound)
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
        return self.bind(program, feeds, self.system.prefill_algorithms)

    def _forget(self) -> None:
        """Drop the least recently used programs, the same on all ranks, and what only they used."""
        counted = [max(shape.n_rows, LEAST_COUNTED_ROWS) for shape, *_ in self._kept]
        n_rows, n_kept = sum(counted), len(counted)
        for n in counted[:-1]:
            if n_rows <= MOST_PASS_ROWS:
                break
            n_rows -= n
            self._kept.popitem(last=False)[1].bound.free()
        if len(self._kept) < n_kept:
            gc.collect()  # programs refer to themselves
            for held in self.chips.held:
                held.pool.trim()
            self.chips.codecs.trim()
