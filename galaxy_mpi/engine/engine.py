"""Builds one chip of a run and steps it through the batch.

The order of a run, on every rank::

    rank 0 reads config, tokenizer, prompts  ->  all ranks agree
    every rank reads and packs its shards    ->  all ranks agree
    step: embed, layers, logits, sample, advance   (until every user has ended)
    rank 0 gathers counters and writes the report
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

from galaxy_mpi.ccl import CCL
from galaxy_mpi.checkpoints import (
    HuggingFaceCheckpoint,
    TextTokenizer,
    default_prompts,
    locate,
    read_config,
)
from galaxy_mpi.config import MAX_USERS, RunConfig
from galaxy_mpi.engine.batch import Batch
from galaxy_mpi.engine.memory import RankMemory, proportional_set_bytes
from galaxy_mpi.engine.report import Report, StepTimes
from galaxy_mpi.engine.sampler import Sampler
from galaxy_mpi.errors import ConfigError
from galaxy_mpi.kernels import RotaryTable
from galaxy_mpi.mesh import Axis, Transport
from galaxy_mpi.models import LlamaConfig, Sharding, Transformer, load_chip_weights
from galaxy_mpi.prefetch import DirectWeights, WeightId, WeightPrefetcher, WeightSource
from galaxy_mpi.prefetch.prefetcher import buffer_bytes
from galaxy_mpi.systems import PRECISIONS, Galaxy, KVCache
from galaxy_mpi.systems.system import ModelShape

__all__ = ["Engine", "Hooks"]

StepHook = Callable[[int], None]


@dataclass(frozen=True)
class Hooks:
    """Where tests and progress displays look into a run; nothing here by default."""

    loaded_layer: Callable[[int, int], None] = lambda layer, n_layers: None
    before_step: StepHook = lambda step: None
    after_step: Callable[[int, Batch], None] = lambda step, batch: None
    before_unpack: Callable[[WeightId], None] | None = None


@dataclass(frozen=True)
class _Plan:
    """What rank 0 finds out and tells the others."""

    folder: Path
    model: LlamaConfig
    prompts: list[str]
    prompt_tokens: list[list[int]]


class Engine:
    """One chip of a run.

    Parameters
    ----------
    run : RunConfig
    transport : Transport
        Of ``run.mesh``.
    hooks : Hooks, optional

    Raises
    ------
    UserError
        On all ranks alike, if the model or the prompts cannot be used.
    """

    def __init__(self, run: RunConfig, transport: Transport, hooks: Hooks | None = None) -> None:
        self._run, self._transport, self._hooks = run, transport, hooks or Hooks()
        began = time.perf_counter()
        self._tokenizer: TextTokenizer | None = None
        self._plan = transport.from_root(self._make_plan)
        self.config = self._plan.model
        error: Exception | None = None
        try:
            self._build()
        except Exception as failure:
            error = failure
        transport.agree(error)
        self._load_s = time.perf_counter() - began

    def __enter__(self) -> "Engine":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._weight_source.close()
        if error is None:  # after an error, requests may be under way
            self.ccl.free()

    def generate(self) -> Report | None:
        """Step until every user has ended; return the report on rank 0, None elsewhere."""
        batch, hooks = self._new_batch(), self._hooks
        times = StepTimes()
        while not batch.is_done:
            hooks.before_step(times.n_steps)
            began = time.perf_counter()
            sampled = self.step(batch)
            times.add(time.perf_counter() - began, users=list(sampled))
            hooks.after_step(times.n_steps, batch)
        return self._report(batch, times)

    def step(self, batch: Batch) -> dict[int, int]:
        """Run one decode step of all users and advance the batch; return the new tokens."""
        tokens_B, positions_B = batch.inputs()
        logits_BV = self.transformer.decode(tokens_B, positions_B, self._users)
        users = batch.sampling_users()
        sampled = self._sampler.sample(logits_BV, users) if len(users) else {}
        batch.advance(sampled)
        return sampled

    def _make_plan(self) -> _Plan:
        """Read everything that rank 0 alone needs to read."""
        run = self._run
        run.check_writable()
        prompts = run.read_prompts(default_prompts())
        folder = locate(run.model)
        model = read_config(folder)
        if run.n_layers is not None and run.n_layers > model.n_layers:
            raise ConfigError(
                f"--layers {run.n_layers}: the model in {folder} has {model.n_layers} layers"
            )
        HuggingFaceCheckpoint(folder, model)
        model = replace(model, n_layers=run.n_layers or model.n_layers)
        model.check_fits(run.mesh)
        self._tokenizer = TextTokenizer(folder)
        tokens = [self._tokenizer.encode(prompt, n) for n, prompt in enumerate(prompts, 1)]
        for number, ids in enumerate(tokens, 1):
            if len(ids) > model.max_seq_len:
                raise ConfigError(
                    f"prompt {number} has {len(ids)} tokens, the cache has room for "
                    f"{model.max_seq_len}: shorten the prompt"
                )
            if max(ids) >= model.vocab_size:
                raise ConfigError(
                    f"prompt {number} has token {max(ids)}, the model knows {model.vocab_size}: "
                    f"tokenizer.json in {folder} belongs to another model"
                )
        return _Plan(folder, model, prompts, tokens)

    def _build(self) -> None:
        """Make this chip: its shards, caches, collectives and layers."""
        run, model, transport = self._run, self.config, self._transport
        precision = PRECISIONS[run.precision]
        sharding = Sharding(model, run.mesh, transport.rank)
        reader = HuggingFaceCheckpoint(self._plan.folder, model)
        self._weights = weights = load_chip_weights(
            reader,
            sharding,
            precision,
            lambda layer: self._hooks.loaded_layer(layer, model.n_layers),
        )
        cols = run.mesh.size(Axis.COLS)
        wanted = run.batch or MAX_USERS
        self._n_places = -(-wanted // cols) * cols
        users_each = self._n_places // cols
        self._users = slice(sharding.col * users_each, (sharding.col + 1) * users_each)
        self._weight_source = self._choose_weight_source()
        self.ccl = CCL(transport)
        longest = max(len(ids) for ids in self._plan.prompt_tokens)
        self._n_positions = min(model.max_seq_len, longest + run.max_new_tokens)
        self.caches = [
            KVCache(
                users_each,
                sharding.heads.n_kv_heads,
                model.head_dim,
                n_positions=self._n_positions,
                dtype=precision.kv_cache,
            )
            for _ in range(model.n_layers)
        ]
        shape = ModelShape(model.dim, model.norm_eps, sharding.heads)
        system = Galaxy(self.ccl, self._weight_source, precision, shape)
        self.system = system
        rotary = RotaryTable(model.inv_freq(), precision.activation.round)
        self.transformer = Transformer(model, system, weights, rotary, self.caches)
        self._sampler = Sampler(self.ccl, run.sampling, self._n_places, precision.candidates)

    def _choose_weight_source(self) -> WeightSource:
        tensors, run = self._weights.tensors, self._run
        if not run.prefetch:
            return DirectWeights(tensors)
        return WeightPrefetcher(
            tensors,
            self._weights.schedule(self.config.n_layers),
            capacity_bytes=buffer_bytes(tensors, run.circular_buffer_bytes),
            before_unpack=self._hooks.before_unpack,
        )

    def _new_batch(self) -> Batch:
        return Batch(
            self._plan.prompt_tokens,
            n_places=self._n_places,
            max_new_tokens=self._run.max_new_tokens,
            n_positions=self._n_positions,
            eos_tokens=self.config.eos_tokens,
        )

    def _report(self, batch: Batch, times: StepTimes) -> Report | None:
        stats = self._weight_source.stats()
        memory = RankMemory(
            weights_bytes=self._weights.packed_bytes,
            embedding_bytes=self._weights.embedding.nbytes,
            kv_cache_bytes=sum(cache.n_bytes for cache in self.caches),
            persistent_buffers_bytes=self.ccl.persistent_bytes,
            unpacked_weights_bytes=stats.capacity_bytes,
            process_bytes=proportional_set_bytes(),
        )
        ranks = self._transport.gather((self.ccl.host_time_s, stats, memory))
        if ranks is None:
            return None
        assert self._tokenizer is not None
        return Report(
            run=self._run,
            system=self.system.name,
            model=self.config,
            prompts=self._plan.prompts,
            tokens=batch.generated,
            text=[self._tokenizer.decode(tokens) for tokens in batch.generated],
            ended=batch.ended,
            times=times,
            load_s=self._load_s,
            collectives_s=[rank[0] for rank in ranks],
            prefetch=[rank[1] for rank in ranks],
            memory=[rank[2] for rank in ranks],
        )
