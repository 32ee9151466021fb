"""Teacher forcing: what a run says at every position of a given text."""

from dataclasses import dataclass

import numpy as np

from galaxy_mpi.arrays import F32
from galaxy_mpi.config import RunConfig
from galaxy_mpi.engine.chips import load_chips
from galaxy_mpi.engine.modes import PrefillMode
from galaxy_mpi.engine.plan import Plan
from galaxy_mpi.mesh.transport import Transport
from galaxy_mpi.models.programs import Programs
from galaxy_mpi.program import Binder, Program, Tap, Use
from galaxy_mpi.systems import Precision, PrefillPass, PrefillUser

__all__ = ["Answers", "forced_answers"]


@dataclass(frozen=True)
class Answers:
    """What a model says of a text of T tokens."""

    logits_TV: F32
    streams_LTD: F32
    """The residual stream after each layer."""


def forced_answers(
    run: RunConfig,
    plan: Plan,
    transport: Transport,
    tokens: list[int],
    precision: Precision | None = None,
) -> Answers | None:
    """Prefill a text and return the answers at all its positions, on rank 0; None elsewhere.

    Parameters
    ----------
    run : RunConfig
        With the precision and the mesh.
    plan : Plan
    transport : Transport
    tokens : list of int
        At most as many as the cache of a column holds.
    precision : Precision, optional
        That of the run by default.

    Raises
    ------
    UserError
        On all ranks alike, if the weights cannot be read.
    """
    chips = load_chips(run, plan, transport, precision=precision, n_tokens=len(tokens))
    programs = Programs(
        plan.model,
        run.mesh,
        run.emulated_system,
        chips.precision,
        users=1,
        modules=chips.modules,
        head=chips.head,
    )
    n_blocks, n_tokens = plan.limits.blocks_for(len(tokens)), len(tokens)
    user = PrefillUser(np.array(tokens), 0, 0, np.arange(n_blocks))
    mesh = run.working_mesh
    # Chips that together hold the stream once, in order.
    holders = range(mesh.n_chips if run.emulated_system.is_scattered else mesh.cols)
    streams: dict[int, list[F32]] = {held.rank: [] for held in chips.held if held.rank in holders}

    def kept(program: Program) -> Tap:
        last = {use.layer: use for use in program.uses}

        def tap(chip: Binder, use: Use, outputs: tuple[F32, ...]) -> None:
            if use.layer >= 0 and last[use.layer] is use and chip.rank in streams:
                chip.call(lambda: streams[chip.rank].append(outputs[0][:n_tokens].copy()))

        return tap

    mode = PrefillMode(chips, programs, taps=[kept])
    transport.begin("a pass of all tokens")
    bound = mode.run(PrefillPass((user,)), all_rows=True)
    rows = {
        held.rank: logits_SV[:n_tokens, : held.state.n_valid_tokens].copy()
        for held, logits_SV in zip(chips.held, bound.results("row_logits"), strict=True)
        if mesh.coord(held.rank)[1] == 0
    }
    mode.free()
    parts = transport.gather((rows, {rank: np.stack(found) for rank, found in streams.items()}))
    if parts is None:
        return None
    of_rows = {rank: logits for part in parts for rank, logits in part[0].items()}
    held_by = {rank: found for part in parts for rank, found in part[1].items()}
    streams_LTD = np.concatenate([held_by[holder] for holder in holders], axis=2)
    return Answers(
        np.concatenate([of_rows[rank] for rank in sorted(of_rows)], axis=1),
        streams_LTD[:, :, : plan.model.dim],
    )
