"""Teacher forcing: what a run says at every position of a given text."""

from dataclasses import dataclass

import numpy as np

from galaxy_mpi.arrays import F32
from galaxy_mpi.config import RunConfig
from galaxy_mpi.engine.chip import honest_wait_s, load_chip
from galaxy_mpi.engine.modes import ModeTotals, PrefillMode
from galaxy_mpi.engine.plan import Plan
from galaxy_mpi.mesh import Transport
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
    chip = load_chip(run, plan, transport, precision=precision)
    transport.allow_waits(honest_wait_s(chip.weights.packed_bytes, len(tokens)))
    mode = PrefillMode(chip, run, ModeTotals(), None)
    n_blocks = plan.limits.blocks_for(len(tokens))
    user = PrefillUser(np.array(tokens), 0, 0, np.arange(n_blocks))
    streams: list[F32] = []
    mesh, rank, n_tokens = run.working_mesh, transport.rank, len(tokens)
    _, col = mesh.coord(rank)
    # Ranks that together hold the stream once, in order.
    holders = range(mesh.n_chips if run.emulated_system.is_scattered else mesh.cols)

    def keep(layer: int, x_shard_SD: F32) -> None:
        if rank in holders:
            streams.append(x_shard_SD[:n_tokens].copy())

    logits_SV = mode.all_logits(PrefillPass((user,)), keep)[:n_tokens, : chip.n_valid_tokens]
    mode.leave()
    parts = transport.gather(
        (logits_SV if col == 0 else None, np.stack(streams) if rank in holders else None)
    )
    if parts is None:
        return None
    of_rows = [parts[mesh.rank(r, 0)][0] for r in range(mesh.rows)]
    held = [parts[holder][1] for holder in holders]
    streams_LTD = np.concatenate([part for part in held if part is not None], axis=2)
    return Answers(
        np.concatenate([part for part in of_rows if part is not None], axis=1),
        streams_LTD[:, :, : plan.model.dim],
    )
