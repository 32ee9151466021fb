"""One chip: what it holds from the first pass to the last, whatever the mode."""

from collections.abc import Callable

from galaxy_mpi.config import RunConfig
from galaxy_mpi.engine.plan import Plan
from galaxy_mpi.engine.request import CacheLimits
from galaxy_mpi.errors import ConfigError, UserError
from galaxy_mpi.kernels import choose_multiply
from galaxy_mpi.mesh import Transport
from galaxy_mpi.models import LlamaConfig, ShardFile, Sharding, Transformer, load_chip_weights
from galaxy_mpi.prefetch.prefetcher import buffer_bytes
from galaxy_mpi.systems import KVCache, ModelShape, Modules, Precision

__all__ = ["Chip", "honest_wait_s", "load_chip"]


class Chip:
    """Weights, caches and layers of one rank.

    Parameters
    ----------
    run : RunConfig
    plan : Plan
    transport : Transport
    loaded_layer : callable
        Called with (layer, number of layers) as weights are loaded.
    precision : Precision, optional
        That of the run by default.
    modules : Modules, optional
        Classes of attention, norm and rotary table.

    Raises
    ------
    UserError
        If the weights cannot be read, or the circular buffer cannot hold one.
    """

    def __init__(
        self,
        run: RunConfig,
        plan: Plan,
        transport: Transport,
        loaded_layer: Callable[[int, int], None],
        precision: Precision | None = None,
        modules: Modules | None = None,
    ) -> None:
        model, limits = plan.model, plan.limits
        self.transport, self.modules = transport, modules or Modules()
        precision = precision or plan.precision
        self.precision = precision if run.math_fidelity else precision.reading_all_bits()
        sharding = Sharding(run.layout(model), transport.rank)
        self.column, self.n_valid_tokens = sharding.col, sharding.n_valid_tokens
        self.weights = load_chip_weights(
            plan.checkpoint,
            sharding,
            self.precision,
            lambda layer: loaded_layer(layer, model.n_layers),
            _shard_file(run, plan, transport.rank),
        )
        largest = max(tensor.n_values for tensor in self.weights.tensors.values())
        self.multiply = choose_multiply(largest, is_bfloat16=precision.is_bfloat16)
        self.buffer_bytes = buffer_bytes(self.weights.tensors, run.circular_buffer_bytes)
        self.schedule = self.weights.schedule(model.n_layers)
        self.shape = ModelShape(model.dim, model.norm_eps, sharding.heads)
        self.caches = self._make_caches(limits, sharding, model)
        rotary = self.modules.rope_class(model.inv_freq(), self.precision.activation.round)
        self.transformer = Transformer(self.weights, rotary, self.caches)

    def _make_caches(
        self, limits: CacheLimits, sharding: Sharding, model: LlamaConfig
    ) -> list[KVCache]:
        try:
            return [
                KVCache(
                    limits.n_blocks,
                    limits.page_size,
                    sharding.heads.n_kv_heads,
                    model.head_dim,
                    dtype=self.precision.of(layer).kv_cache,
                )
                for layer in range(model.n_layers)
            ]
        except (MemoryError, ValueError):  # numpy refuses sizes past 2**63 with the second
            raise ConfigError(
                f"the KV cache of {limits.n_blocks} blocks of {limits.page_size} positions in "
                f"{model.n_layers} layers is more than this computer gives; lower --cache-blocks"
            ) from None


def load_chip(
    run: RunConfig,
    plan: Plan,
    transport: Transport,
    loaded_layer: Callable[[int, int], None] = lambda layer, n_layers: None,
    precision: Precision | None = None,
    modules: Modules | None = None,
) -> Chip:
    """Return this rank's chip when all ranks have theirs; parameters as of `Chip`.

    Raises
    ------
    UserError
        On all ranks alike, if one of them cannot make its chip.
    """
    error: UserError | None = None
    try:
        chip = Chip(run, plan, transport, loaded_layer, precision, modules)
    except UserError as failure:
        error = failure
    transport.agree(error)
    longest = max(len(tokens) for tokens in plan.prompt_tokens)
    transport.allow_waits(honest_wait_s(chip.weights.packed_bytes, longest))
    return chip


def honest_wait_s(weights_bytes: int, n_tokens: int) -> float:
    """Return the seconds of host time that ranks in good health may make each other wait.

    Between two collectives a rank multiplies some of its weights with the tokens of a pass. A
    slow host with many ranks on each core is assumed to do so with all of them at 10 MB/s for up
    to 1,024 tokens, and 20 s are for whatever else such a host does.

    Parameters
    ----------
    weights_bytes : int
        Packed weights of a rank.
    n_tokens : int
        Of the longest prompt.
    """
    return 20.0 + weights_bytes / 10e6 * max(1.0, n_tokens / 1024)


def _shard_file(run: RunConfig, plan: Plan, rank: int) -> ShardFile | None:
    """Return where this rank's packed weights are kept, if they are."""
    if run.weights_cache is None or plan.fingerprint is None:
        return None
    what = f"{run.working_mesh}-{plan.precision.key}-{plan.model.n_layers}"
    path = run.weights_cache / plan.fingerprint / what / f"rank{rank:03}.safetensors"
    return ShardFile(path, f"{plan.fingerprint}/{what}/{rank}/{plan.model}")
