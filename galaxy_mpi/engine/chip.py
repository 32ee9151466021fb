"""One chip: what it holds from the first pass to the last, whatever the mode."""

from collections.abc import Callable

from galaxy_mpi.config import RunConfig
from galaxy_mpi.engine.plan import Plan
from galaxy_mpi.engine.request import CacheLimits
from galaxy_mpi.errors import ConfigError
from galaxy_mpi.kernels import choose_multiply
from galaxy_mpi.mesh import Transport
from galaxy_mpi.models import LlamaConfig, ShardFile, Sharding, Transformer, load_chip_weights
from galaxy_mpi.prefetch.prefetcher import buffer_bytes
from galaxy_mpi.systems import KVCache, ModelShape, Modules, Precision

__all__ = ["Chip"]


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


def _shard_file(run: RunConfig, plan: Plan, rank: int) -> ShardFile | None:
    """Return where this rank's packed weights are kept, if they are."""
    if run.weights_cache is None or plan.fingerprint is None:
        return None
    what = f"{run.working_mesh}-{plan.precision.key}-{plan.model.n_layers}"
    path = run.weights_cache / plan.fingerprint / what / f"rank{rank:03}.safetensors"
    return ShardFile(path, f"{plan.fingerprint}/{what}/{rank}/{plan.model}")
