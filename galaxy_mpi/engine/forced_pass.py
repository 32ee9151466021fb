"""One text, one model, one precision after another: what the precisions share is done once.

All tokens go in as one prefill pass, as ``galaxy_mpi.accuracy --prefill N`` feeds them. A weight is
read and packed once for each format. The streams after the layers of a pass may be kept: a later
precision whose first layers have the same formats begins after these layers, and gets the same
bits as if it had run them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from galaxy_mpi.arrays import F32
from galaxy_mpi.config import RunConfig
from galaxy_mpi.engine.chips import load_chips
from galaxy_mpi.engine.mode import MakeTap
from galaxy_mpi.engine.modes import PrefillMode
from galaxy_mpi.engine.parts import make_programs
from galaxy_mpi.engine.plan import Plan
from galaxy_mpi.mesh.transport import Transport
from galaxy_mpi.models import PackedOnce
from galaxy_mpi.program import HEAD, Binder, Program, Tap, Use
from galaxy_mpi.systems import Precision, PrefillPass, PrefillUser

__all__ = ["ForcedPass"]

_MOST_KEPT = 3
"""Passes whose streams are kept; the one that was used longest ago goes."""


@dataclass(frozen=True)
class _Kept:
    """A pass that others may begin with."""

    layers: tuple[Precision, ...]
    streams: list[list[F32]]
    """Behind each layer, (S, D/C) of each chip of the process."""

    def n_shared(self, layers: Sequence[Precision]) -> int:
        """Return how many layers it begins with that are the same."""
        pairs = zip(self.layers, layers, strict=True)
        return next((n for n, (a, b) in enumerate(pairs) if a != b), len(layers))


class ForcedPass:
    """A pass over a text, to be run in several precisions.

    Parameters
    ----------
    run : RunConfig
        Its own precision is not used.
    plan : Plan
    transport : Transport
    tokens : sequence of int
        At most as many as the cache of a column holds.

    Attributes
    ----------
    n_layers_run : int
        Layers of all passes so far, those that were taken from an earlier pass not counted.
    """

    def __init__(
        self, run: RunConfig, plan: Plan, transport: Transport, tokens: Sequence[int]
    ) -> None:
        self._run, self._plan, self._transport = run, plan, transport
        self._tokens = np.array(tokens)
        # Not of float32, which is large and asked for once.
        self._packed: dict[int, PackedOnce] = {rank: {} for rank in transport.chips}
        self._kept: list[_Kept] = []
        self.n_layers_run = 0

    def logits(self, precision: Precision, *, keeps: bool = False) -> dict[int, F32]:
        """Run the pass; collective.

        Parameters
        ----------
        precision : Precision
        keeps : bool
            Whether the streams are kept for passes that begin alike. Alike on all ranks.

        Returns
        -------
        dict of int to ndarray of shape (T, V/R)
            Logits at all positions, of each chip of this process in the first column, in the order
            of the vocabulary; without padding.

        Raises
        ------
        UserError
            On all ranks alike, if the weights cannot be read.
        """
        run, model = self._run, self._plan.model
        chips = load_chips(
            run,
            self._plan,
            self._transport,
            precision=precision,
            n_tokens=len(self._tokens),
            packed=self._packed if precision.is_bfloat16 else None,
        )
        programs = make_programs(run, model, chips, users=run.working_mesh.cols)
        layers = tuple(chips.precision.of(layer) for layer in range(model.n_layers))
        behind = self._shared(layers)
        streams: list[list[F32]] = [[] for _ in range(model.n_layers)]
        taps = [_keeping(streams)] if keeps else []
        self._transport.begin("a pass of all tokens")
        mode = PrefillMode(chips, programs, taps=taps)
        blocks = np.arange(self._plan.limits.blocks_for(len(self._tokens)))
        work = PrefillPass((PrefillUser(self._tokens, 0, 0, blocks),))
        bound = mode.run(work, all_rows=True, behind=behind)
        self.n_layers_run += model.n_layers - len(behind)
        found = {
            held.rank: logits[: len(self._tokens), : held.state.n_valid_tokens].copy()
            for held, logits in zip(chips.held, bound.results("row_logits"), strict=True)
            if chips.mesh.coord(held.rank)[1] == 0
        }
        mode.free()
        if keeps:
            streams[: len(behind)] = behind
            self._kept = [_Kept(layers, streams), *self._kept][:_MOST_KEPT]
        return found

    def _shared(self, layers: tuple[Precision, ...]) -> list[list[F32]]:
        """Return the streams after the first layers that a kept pass has too, the most of any."""
        best = max(self._kept, key=lambda kept: kept.n_shared(layers), default=None)
        if best is None or (n := best.n_shared(layers)) == 0:
            return []
        self._kept.remove(best)
        self._kept.insert(0, best)
        return best.streams[:n]


def _keeping(streams: list[list[F32]]) -> MakeTap:
    """Return what keeps the output of the last op of each layer, chip by chip."""

    def make(program: Program) -> Tap:
        last = {use.layer: use for use in program.uses}

        def tap(chip: Binder, use: Use, outputs: tuple[F32, ...]) -> None:
            if use.layer != HEAD and last[use.layer] is use:
                kept = streams[use.layer]
                chip.call(lambda: kept.append(outputs[0].copy()))

        return tap

    return make
