"""Room for packed weights: in memory or in the cache on disk, and how long they may take."""

from collections.abc import Mapping

from galaxy_mpi.config import RunConfig
from galaxy_mpi.engine.plan import Plan
from galaxy_mpi.memory import available_bytes, check_fits, free_disk_bytes
from galaxy_mpi.models import ShardFile, Sharding, shard_parts

__all__ = ["check_memory", "honest_wait_s", "shard_file"]

_FILL = 0.95
"""Share of a disk's free bytes that packed weights may take."""


def check_memory(
    run: RunConfig, plan: Plan, chips_per_rank: int, environ: Mapping[str, str]
) -> None:
    """Raise if the weights of this host's ranks do not fit in memory, before any is read.

    Shards mapped from the cache need no memory, and are written there first if there is room.

    Parameters
    ----------
    run : RunConfig
    plan : Plan
    chips_per_rank : int
    environ : mapping of str to str
        In which launchers pass the number of ranks on this host.

    Raises
    ------
    ConfigError
        With both numbers.
    """
    file = shard_file(run, plan, 0)
    if file is not None and file.path.exists():
        return
    parts = shard_parts(Sharding(run.layout(plan.model), 0), plan.precision)
    told = (environ.get(name, "") for name in ("OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS"))
    n_ranks = next((int(n) for n in told if n.isdecimal()), 1)
    n_bytes = n_ranks * chips_per_rank * sum(part.n_bytes for part in parts.values())
    what = f"the packed weights of {n_ranks * chips_per_rank} chips"
    if file is not None and run.weights_cache is not None:
        free = free_disk_bytes(run.weights_cache)
        if n_bytes < _FILL * free:
            return
        what += f", {n_bytes} bytes, of which --weights-cache has room for {free},"
    check_fits(n_bytes, what, available_bytes())


def honest_wait_s(weights_bytes: int, n_tokens: int) -> float:
    """Return how long healthy ranks may make each other wait, in seconds of host time.

    Between two collectives a rank multiplies some of its weights with the tokens of a pass. The
    limit assumes a slow host that does so with all weights at 10 MB/s for up to 1,024 tokens, plus
    20 s for everything else.

    Parameters
    ----------
    weights_bytes : int
        Packed weights of a rank.
    n_tokens : int
        Of the longest prompt.
    """
    return 20.0 + weights_bytes / 10e6 * max(1.0, n_tokens / 1024)


def shard_file(run: RunConfig, plan: Plan, rank: int) -> ShardFile | None:
    """Return the cache file of a chip's packed weights, or None."""
    if run.weights_cache is None or plan.fingerprint is None:
        return None
    what = f"{run.working_mesh}-{plan.precision.key}-{plan.model.n_layers}"
    layout = run.layout(plan.model).key
    if layout:
        what += f"-{layout}"
    path = run.weights_cache / plan.fingerprint / what / f"rank{rank:03}.safetensors"
    return ShardFile(path, f"{plan.fingerprint}/{what}/{rank}/{plan.model}")
