"""The chips of a process: what both modes share for the whole run."""

from collections.abc import Callable, Mapping

import numpy as np

from galaxy_mpi.arrays import F32, Ints
from galaxy_mpi.config import RunConfig
from galaxy_mpi.dtypes import PackedTensor
from galaxy_mpi.engine.memory import RankMemory, proportional_set_bytes
from galaxy_mpi.engine.plan import Plan
from galaxy_mpi.engine.room import honest_wait_s, shard_file
from galaxy_mpi.errors import ConfigError, UserError, ValuesError
from galaxy_mpi.kernels import LARGE, RotaryTable, chosen_product
from galaxy_mpi.mesh import Axis
from galaxy_mpi.mesh.transport import Transport
from galaxy_mpi.models import (
    ChipWeights,
    PackedOnce,
    Sharding,
    load_chip_weights,
)
from galaxy_mpi.prefetch import WeightStream, buffer_bytes
from galaxy_mpi.program import ArrayPool, Codecs
from galaxy_mpi.systems import ChipState, KVCache, Modules, Precision
from galaxy_mpi.systems.workspace import Workspace
from galaxy_mpi.weights import WeightId

__all__ = ["Chips", "Held", "load_chips"]


class Held:
    """The contents of one chip.

    Parameters
    ----------
    rank : int
    weights : ChipWeights
    state : ChipState
    """

    def __init__(self, rank: int, weights: ChipWeights, state: ChipState) -> None:
        self.rank, self.weights, self.state = rank, weights, state
        self.pool = ArrayPool()
        self.inputs: dict[str, F32] = {}


class Chips:
    """Weights, caches and arrays of the chips of this process.

    Parameters
    ----------
    run : RunConfig
    plan : Plan
    transport : Transport
    loaded_layer : callable
        Called with (layer, number of layers) while weights are loaded.
    precision : Precision, optional
        By default that of the run.
    modules : Modules, optional
        Classes of attention, norm and rotary table.
    packed : mapping of int to dict, optional
        By chip of this process, weights that were packed before; see `load_chip_weights`.

    Raises
    ------
    UserError
        If the weights cannot be read, or one does not fit in the circular buffer.
    """

    def __init__(
        self,
        run: RunConfig,
        plan: Plan,
        transport: Transport,
        loaded_layer: Callable[[int, int], None] = lambda layer, n_layers: None,
        precision: Precision | None = None,
        modules: Modules | None = None,
        packed: Mapping[int, PackedOnce] | None = None,
    ) -> None:
        self.run, self.plan, self.transport = run, plan, transport
        self.mesh, self.model = run.working_mesh, plan.model
        self.modules = modules or run.modules
        precision = precision or plan.precision
        self.precision = precision if run.math_fidelity else precision.reading_all_bits()
        self.layout = run.layout(plan.model)
        self.planes = {axis: transport.plane(axis) for axis in Axis}
        self.codecs, self._workspace = Codecs(), Workspace()
        self.rotary: RotaryTable = self.modules.rope_class(
            plan.model.inv_freq(), self.precision.rotary_table.round
        )
        self.held = [
            self._load(rank, loaded_layer, precision, None if packed is None else packed[rank])
            for rank in transport.chips
        ]
        self.head = tuple(self.held[0].weights.head)
        stream = self.held[0].state.stream
        whole = _whole(self.held[0].weights, stream)
        self.buffer_bytes = buffer_bytes(whole, run.circular_buffer_bytes) if whole else 0
        self.largest = max((tensor.n_values for tensor in whole.values()), default=0)

    def piece_bytes(self, *, prefill: bool) -> int:
        """Return the bytes of the largest unpacked piece of a streamed weight."""
        stream = self.held[0].state.stream
        return 0 if stream is None else stream.piece_bytes(prefill=prefill)

    @property
    def product(self) -> str:
        """What multiplies large weights: ``numpy``, or torch's ``float32`` or ``bfloat16``."""
        stream = self.held[0].state.stream
        return "numpy" if stream is None else stream.product

    @property
    def packed_bytes(self) -> int:
        """Bytes of the packed weights of all chips of this process."""
        return sum(held.weights.packed_bytes for held in self.held)

    @property
    def columns(self) -> set[int]:
        """Columns of the mesh that have a chip in this process."""
        return {self.mesh.coord(held.rank)[1] for held in self.held}

    def fill(self, held: Held, tokens: Ints, positions: Ints) -> None:
        """Fill in the inputs of a step or pass: embeddings and the rotary table."""
        inputs = held.inputs
        np.copyto(inputs["x"], held.weights.embed(tokens))
        cos, sin = self.rotary.at(positions)
        all_cos, all_sin = inputs["cos"], inputs["sin"]
        wanted = all_cos.shape[:2] + all_cos.shape[3:]
        for values in (cos, sin):
            if np.shape(values) != wanted:
                raise ValuesError(
                    f"{type(self.rotary).__name__}.at returned shape {np.shape(values)}, "
                    f"not {wanted}"
                )
        all_cos[...] = cos[:, :, None]
        np.negative(sin, out=all_sin[:, :, 0])
        all_sin[:, :, 1] = sin

    def memory(self, used_blocks: int, sent_bytes: int, unpacked_bytes: int) -> list[RankMemory]:
        """Return the host memory of each chip.

        Parameters
        ----------
        used_blocks : int
            KV cache blocks that were used at the same time.
        sent_bytes, unpacked_bytes : int
            Of persistent send buffers, and of the room for unpacked weights.
        """
        collectives_bytes = sum(plane.bytes_per_chip for plane in self.planes.values())
        process_bytes = proportional_set_bytes() // len(self.held)
        return [
            RankMemory(
                weights_bytes=held.weights.packed_bytes,
                embedding_bytes=held.weights.embedding_bytes,
                kv_cache_bytes=used_blocks * sum(c.block_bytes for c in held.state.caches),
                kv_cache_reserved_bytes=self.plan.limits.n_blocks
                * sum(c.block_bytes for c in held.state.caches),
                persistent_buffers_bytes=sent_bytes,
                unpacked_weights_bytes=unpacked_bytes,
                collectives_bytes=collectives_bytes,
                process_bytes=process_bytes,
            )
            for held in self.held
        ]

    def new_inputs(self, shapes: Mapping[str, tuple[int, ...]]) -> list[dict[str, F32]]:
        """Return arrays for the inputs of a program on each chip."""
        return [
            {name: np.zeros(shape, np.float32) for name, shape in shapes.items()} for _ in self.held
        ]

    def _load(
        self,
        rank: int,
        loaded_layer: Callable[[int, int], None],
        precision: Precision,
        packed: PackedOnce | None,
    ) -> Held:
        run, plan, model = self.run, self.plan, self.model
        sharding = Sharding(self.layout, rank)
        weights = load_chip_weights(
            plan.checkpoint,
            sharding,
            self.precision,
            lambda layer: loaded_layer(layer, model.n_layers),
            None if packed is not None else shard_file(run, plan, rank),
            packed,
        )
        stream = self._stream(weights)
        shape, limits = self.layout.chip_shape(1), plan.limits
        try:
            caches = [
                KVCache(
                    limits.n_blocks,
                    limits.page_size,
                    shape.kv_heads,
                    model.head_dim,
                    dtype=self.precision.of(layer).kv_cache,
                )
                for layer in range(model.n_layers)
            ]
        except (MemoryError, ValueError):  # numpy raises the second for sizes beyond 2**63
            raise ConfigError(
                f"the KV cache of {limits.n_blocks} blocks of {limits.page_size} positions in "
                f"{model.n_layers} layers does not fit in memory; lower --cache-blocks"
            ) from None
        heads, kv_heads = self.layout.head_numbers(sharding.row)
        state = ChipState(
            rank=rank,
            vectors=weights.vectors,
            caches=caches,
            n_valid_tokens=sharding.n_valid_tokens,
            workspace=self._workspace,
            stream=stream,
            heads=heads,
            n_heads=model.n_heads,
            kv_heads=kv_heads,
        )
        return Held(rank, weights, state)

    def _stream(self, weights: ChipWeights) -> WeightStream | None:
        """Return what streams large weights; None if some input is not a value of bfloat16."""
        precision = self.precision
        if not precision.is_bfloat16:
            return None
        tensors = {
            weight: tensor
            for weight, tensor in weights.tensors.items()
            if tensor.n_values >= LARGE and precision.of(weight.layer).reads_whole(weight.weight)
        }
        # Torch takes seconds to import, and is of no use where no weight is large.
        return WeightStream(tensors, chosen_product(), LARGE) if tensors else None


def _whole(weights: ChipWeights, stream: WeightStream | None) -> dict[WeightId, PackedTensor]:
    """Return the weights that are unpacked as a whole."""
    return {
        weight: tensor
        for weight, tensor in weights.tensors.items()
        if stream is None or not stream.has(weight)
    }


def load_chips(
    run: RunConfig,
    plan: Plan,
    transport: Transport,
    loaded_layer: Callable[[int, int], None] = lambda layer, n_layers: None,
    precision: Precision | None = None,
    modules: Modules | None = None,
    *,
    n_tokens: int = 0,
    packed: Mapping[int, PackedOnce] | None = None,
) -> Chips:
    """Return this process's chips once all processes have theirs; parameters as of `Chips`.

    Parameters
    ----------
    n_tokens : int
        Of the longest prompt, if it is longer than those of the plan.

    Raises
    ------
    UserError
        On all ranks, if one of them fails.
    """
    error: UserError | None = None
    try:
        chips = Chips(run, plan, transport, loaded_layer, precision, modules, packed)
    except UserError as failure:
        error = failure
    transport.agree(error)
    longest = max(n_tokens, *(len(tokens) for tokens in plan.prompt_tokens))
    transport.allow_waits(honest_wait_s(chips.packed_bytes, longest))
    return chips
