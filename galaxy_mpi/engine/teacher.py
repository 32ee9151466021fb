"""Teacher forcing: predictions of a run at the positions of a given text.

As the original measures it: the first tokens in one prefill pass, the others one at a time in
decode steps, each time feeding the token of the text instead of the predicted one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from galaxy_mpi.arrays import F32, Ints
from galaxy_mpi.config import RunConfig
from galaxy_mpi.engine.chips import Chips, load_chips
from galaxy_mpi.engine.mode import MakeTap, Watcher
from galaxy_mpi.engine.modes import DecodeMode, PrefillMode
from galaxy_mpi.engine.parts import make_programs
from galaxy_mpi.engine.plan import Plan
from galaxy_mpi.mesh.transport import Transport
from galaxy_mpi.models.programs import Programs
from galaxy_mpi.program import HEAD, Binder, Program, Tap, Use
from galaxy_mpi.systems import PageTable, Precision, PrefillPass, PrefillUser

__all__ = ["Answers", "forced_answers"]


@dataclass(frozen=True)
class Answers:
    """Predictions at T positions of a text."""

    logits_TV: F32
    streams_LTD: F32
    """The residual stream after each layer."""
    first: int = 0
    """The first of the positions."""


def forced_answers(
    run: RunConfig,
    plan: Plan,
    transport: Transport,
    tokens: Sequence[int],
    precision: Precision | None = None,
    n_prefilled: int | None = None,
    watchers: Sequence[Watcher] = (),
) -> Answers | None:
    """Feed a text and return the predictions on rank 0, None elsewhere.

    Parameters
    ----------
    run : RunConfig
        With the precision and the mesh.
    plan : Plan
    transport : Transport
    tokens : list of int
        At most as many as fit in the cache of a column.
    precision : Precision, optional
        That of the run by default.
    n_prefilled : int, optional
        Tokens to prefill. If these are not all, predictions are returned from the last of them on,
        up to the second-last token; otherwise at all positions.
    watchers : sequence of Watcher
        Observe the values of the pass and the steps.

    Raises
    ------
    UserError
        On all ranks, if the weights cannot be read.
    """
    chips = load_chips(run, plan, transport, precision=precision, n_tokens=len(tokens))
    # One place per column; the text is in the first.
    programs = make_programs(run, plan.model, chips, users=run.working_mesh.cols)
    n_prefilled = min(n_prefilled or len(tokens), len(tokens))
    forcing = _Forcing(chips, programs, np.array(tokens), n_prefilled, watchers)
    transport.begin("a pass of all tokens")
    forcing.prefill()
    forcing.decode()
    parts = transport.gather((forcing.logits, forcing.streams))
    if parts is None:
        return None
    logits = {rank: found for part in parts for rank, found in part[0].items()}
    held_by = {rank: found for part in parts for rank, found in part[1].items()}
    mesh, n_layers = run.working_mesh, plan.model.n_layers
    holders = range(mesh.n_chips if run.emulated_system.is_scattered else mesh.cols)
    streams_LTD = np.concatenate(
        [
            np.stack([np.concatenate(held_by[holder][layer]) for layer in range(n_layers)])
            for holder in holders
        ],
        axis=2,
    )
    return Answers(
        np.concatenate([np.concatenate(logits[rank]) for rank in sorted(logits)], axis=1),
        streams_LTD[:, :, : plan.model.dim],
        forcing.first,
    )


class _Forcing:
    """The passes over a text, and their results on the chips of this process.

    Parameters
    ----------
    chips : Chips
    programs : Programs
    tokens : ndarray of int
    n_prefilled : int
    watchers : sequence of Watcher
    """

    def __init__(
        self,
        chips: Chips,
        programs: Programs,
        tokens: Ints,
        n_prefilled: int,
        watchers: Sequence[Watcher],
    ) -> None:
        self._chips, self._programs, self._tokens = chips, programs, tokens
        self._watchers = watchers
        self._n_prefilled = n_prefilled
        self.first = n_prefilled - 1 if n_prefilled < len(tokens) else 0
        mesh, n_layers = programs.mesh, programs.n_layers
        holders = mesh.n_chips if programs.system.is_scattered else mesh.cols
        self.logits: dict[int, list[F32]] = {
            held.rank: [] for held in chips.held if mesh.coord(held.rank)[1] == 0
        }
        """Of each row's slice of the vocabulary, (T, V/R) in pieces."""
        self.streams: dict[int, list[list[F32]]] = {
            held.rank: [[] for _ in range(n_layers)] for held in chips.held if held.rank < holders
        }
        """Of chips that together hold the stream once, by layer, in pieces."""
        self._blocks = np.arange(chips.plan.limits.blocks_for(len(tokens)))

    def prefill(self) -> None:
        """Run the pass of the first tokens."""
        taps, watchers = [self._behind_layers()], self._watchers
        mode = PrefillMode(self._chips, self._programs, taps=taps, watchers=watchers)
        user = PrefillUser(self._tokens[: self._n_prefilled], 0, 0, self._blocks)
        bound = mode.run(PrefillPass((user,)), all_rows=True)
        self._keep_logits(bound.results("row_logits"), slice(self.first, self._n_prefilled))
        mode.free()

    def decode(self) -> None:
        """Run a step for every later token except the last, which predicts nothing."""
        taps, watchers = [self._between_layers()], self._watchers
        mode = DecodeMode(self._chips, self._programs, None, taps=taps, watchers=watchers)
        page_size, n_columns = self._chips.plan.limits.page_size, self._programs.mesh.cols
        blocks = self._blocks[None]
        place = np.zeros(n_columns, np.int64)
        for position in range(self._n_prefilled, len(self._tokens) - 1):
            place[0] = self._tokens[position]
            tables = {
                column: PageTable(np.array([-1 if column else position]), blocks, page_size)
                for column in self._chips.columns
            }
            ready = mode.run(place, tables, all_logits=True)
            row_of = self._programs.mesh.coord
            whole = ready.results("logits")
            mine = [
                logits[row_of(held.rank)[0], :1]
                for held, logits in zip(self._chips.held, whole, strict=True)
            ]
            self._keep_logits(mine, slice(0, 1))
        mode.free()

    def _keep_logits(self, of_chips: list[F32], rows: slice) -> None:
        for held, logits in zip(self._chips.held, of_chips, strict=True):
            if held.rank in self.logits:
                kept = logits[rows, : held.state.n_valid_tokens].copy()
                self.logits[held.rank].append(kept)

    def _behind_layers(self) -> MakeTap:
        """Return a tap that keeps the output of the last op of a layer, in prefill."""
        rows = slice(self.first, self._n_prefilled)

        def make(program: Program) -> Tap:
            last = {use.layer: use for use in program.uses}

            def tap(chip: Binder, use: Use, outputs: tuple[F32, ...]) -> None:
                if use.layer != HEAD and last[use.layer] is use and chip.rank in self.streams:
                    kept = self.streams[chip.rank][use.layer]
                    chip.call(lambda: kept.append(outputs[0][rows].copy()))

            return tap

        return make

    def _between_layers(self) -> MakeTap:
        """Return a tap that keeps the stream where a step adds it: in the norm after a layer."""

        def make(program: Program) -> Tap:
            norms = {use.layer: use for use in reversed(program.uses)}
            behind = {id(use): layer - 1 for layer, use in norms.items() if layer > 0}
            behind[id(norms[HEAD])] = self._programs.n_layers - 1

            def tap(chip: Binder, use: Use, outputs: tuple[F32, ...]) -> None:
                layer = behind.get(id(use))
                if layer is not None and chip.rank in self.streams:
                    kept = self.streams[chip.rank][layer]
                    chip.call(lambda: kept.append(outputs[1][:1].copy()))

            return tap

        return make
