"""Read what a run needs from files; on rank 0 alone, so only rank 0 loads the readers of files."""

import os
from collections.abc import Iterator

from galaxy_mpi.checkpoints import cache_folder, default_prompts
from galaxy_mpi.checkpoints.model_files import ModelFiles, open_model
from galaxy_mpi.checkpoints.random_weights import RandomCheckpoint
from galaxy_mpi.checkpoints.tokenizer import Tokenizer
from galaxy_mpi.config import RunConfig
from galaxy_mpi.engine.plan import Plan
from galaxy_mpi.engine.prompts import Prompts
from galaxy_mpi.engine.request import CacheLimits
from galaxy_mpi.errors import ConfigError
from galaxy_mpi.kernels import SamplingParams
from galaxy_mpi.kernels.sampling import MAX_TOP_K
from galaxy_mpi.models import Layout
from galaxy_mpi.output import plural, say_once

__all__ = ["make_plan"]


def make_plan(run: RunConfig) -> tuple[Plan, Tokenizer]:
    """Read everything that only one rank needs to read.

    Raises
    ------
    UserError
        If the model or a prompt cannot be used.
    """
    run.check_writable()
    machine = run.emulated_machine  # raises if it cannot be used
    prompts = Prompts.read(run, default_prompts())
    files = open_model(run.model, run.n_layers)
    model, tokenizer = files.config, files.tokenizer
    chat = files.chat if run.chat else None
    if run.chat and chat is None:
        raise ConfigError(f"--chat: {files.where} has no chat template; leave out --chat")
    if run.layout_class is not Layout:
        run.layout(model).check()
    limits = CacheLimits(
        page_size=run.page_size, n_blocks=run.cache_blocks, max_seq_len=model.max_seq_len
    )
    prompts.encode(model, tokenizer, chat, limits, files.where)
    _check_cache(prompts, limits)
    if note := _cut_short(run, prompts, limits):
        say_once(note)
    precision = run.wanted.on(run.emulated_system, model)
    if note := run.wanted.note(model):
        say_once(note)
    if precision.is_bfloat16:
        machine.check_mesh(run.mesh)
    sampling = _sampling(run, files)
    for note in _without_effect(run, sampling):
        say_once(note)
    if run.weights_cache is not None and os.path.isfile(run.weights_cache):
        raise ConfigError(f"--weights-cache {run.weights_cache} is a file; name a folder, or off")
    fingerprint = files.fingerprint()
    plan = Plan(
        files.checkpoint,
        model,
        precision,
        precision.is_bfloat16,
        _kept_as(run, files, fingerprint),
        {"model": fingerprint, "tokenizer": tokenizer.checksum()},
        limits,
        sampling,
        prompts.texts,
        prompts.tokens,
        prompts.bad,
    )
    return plan, tokenizer


def _sampling(run: RunConfig, files: ModelFiles) -> SamplingParams:
    """Return how tokens are chosen: as requested, or in chats as the model recommends."""
    if run.sampling is not None:
        return run.sampling
    advice = files.advice
    if not run.chat or not advice.does_sample:
        return SamplingParams(seed=run.seed)
    return SamplingParams(
        temperature=advice.temperature or 1.0,
        top_k=min(advice.top_k or MAX_TOP_K, MAX_TOP_K),
        top_p=advice.top_p,
        seed=run.seed,
    )


def _without_effect(run: RunConfig, sampling: SamplingParams) -> Iterator[str]:
    """Yield a note for each option that changes nothing without another one."""
    written = (run.trace_path, run.host_trace_path, run.profile_path, run.report_path)
    if run.trace_steps is not None and not any(written):
        yield (
            f"--trace-steps {run.trace_steps} has no effect without --trace, --trace-host, "
            "--profile-csv or --report"
        )
    if sampling.seed and not sampling.temperature:
        yield f"--seed {sampling.seed} has no effect at temperature 0; add --temperature"


def _kept_as(run: RunConfig, files: ModelFiles, fingerprint: str | None) -> str | None:
    """Return the name under which packed weights are kept; None if they are not.

    Weights that are made up are large and quickly made, so only a folder that was named keeps them.
    """
    if run.weights_cache is None:
        return None
    is_named = run.weights_cache != cache_folder() / "shards"
    if isinstance(files.checkpoint, RandomCheckpoint) and is_named:
        return files.checkpoint.key
    return fingerprint


def _check_cache(prompts: Prompts, limits: CacheLimits) -> None:
    """Raise if none of the prompts fits the cache."""
    known = [(n, ids) for n, ids in enumerate(prompts.tokens) if n not in prompts.bad]
    refusals = [limits.refusal(number, len(ids)) for number, ids in known]
    if refusals[0] is not None and None not in refusals:
        rest = f" (and so all {len(refusals)} prompts)" if len(refusals) > 1 else ""
        raise ConfigError(f"{refusals[0]}{rest}")


def _cut_short(run: RunConfig, prompts: Prompts, limits: CacheLimits) -> str | None:
    """Return a note on users who cannot get all the tokens that were asked for, if there are any.

    None for callers in Python, who say how many tokens they want later.
    """
    most = run.max_new_tokens
    rooms = {n: limits.room(len(ids)) for n, ids in enumerate(prompts.tokens) if ids}
    cut = {n: room for n, room in rooms.items() if 0 < room < most}
    if not cut or run.prompt_tokens is not None:
        return None
    least = min(cut, key=lambda n: cut[n])
    is_context = limits.n_positions == limits.max_seq_len
    what = "the model's context" if is_context else "the KV cache (--cache-blocks)"
    rest = f", and fewer than {most} for {plural(len(cut) - 1, 'more user')}"
    return (
        f"--max-new-tokens {most}: {what} of {limits.n_positions:,} positions leaves "
        f"{cut[least]:,} for user {least}{rest if len(cut) > 1 else ''}"
    )
