"""What rank 0 finds out before a run and tells the others."""

import os
from dataclasses import dataclass

from galaxy_mpi.checkpoints import (
    Checkpoint,
    MetaCheckpoint,
    ModelFiles,
    RandomCheckpoint,
    Tokenizer,
    check_prompts,
    default_prompts,
    open_model,
)
from galaxy_mpi.config import RunConfig
from galaxy_mpi.engine.request import CacheLimits
from galaxy_mpi.errors import ConfigError
from galaxy_mpi.kernels import SamplingParams
from galaxy_mpi.kernels.sampling import MAX_TOP_K
from galaxy_mpi.models import Layout, LlamaConfig
from galaxy_mpi.systems import Precision
from galaxy_mpi.timing import Machine

__all__ = ["Plan", "make_plan"]


@dataclass(frozen=True)
class Plan:
    """The model and the prompts of a run."""

    checkpoint: Checkpoint | MetaCheckpoint | RandomCheckpoint
    model: LlamaConfig
    precision: Precision
    machine: Machine | None
    """Whose device time is told; None for a precision that the device does not have."""
    fingerprint: str | None
    """Of the checkpoint's files; None if nothing of them is worth keeping."""
    checksums: dict[str, str | None]
    """Of the model's weights and of its tokenizer, for reports."""
    limits: CacheLimits
    sampling: SamplingParams
    prompts: list[str]
    prompt_tokens: list[list[int]]


def make_plan(run: RunConfig) -> tuple[Plan, Tokenizer]:
    """Read everything that one rank alone needs to read.

    Raises
    ------
    UserError
        If the model or a prompt cannot be used.
    """
    run.check_writable()
    machine = run.emulated_machine
    prompts = run.read_prompts(default_prompts())
    files = open_model(run.model, run.n_layers)
    model, tokenizer = files.config, files.tokenizer
    chat = files.chat if run.chat else None
    if run.chat and chat is None:
        raise ConfigError(f"--chat: {files.where} has no chat template; leave out --chat")
    if run.prompt_tokens is None:
        check_prompts(prompts, model.max_seq_len)
        if chat is None:
            tokens = [tokenizer.encode(prompt, n) for n, prompt in enumerate(prompts, 1)]
        else:
            texts = chat.apply_to_all(prompts)
            check_prompts(texts, model.max_seq_len)
            tokens = [tokenizer.encode_chat(text, n) for n, text in enumerate(texts, 1)]
    else:
        tokens = [list(ids) for ids in run.prompt_tokens]
        prompts = [tokenizer.decode(ids) for ids in tokens]
    if run.layout_class is not Layout:
        run.layout(model).check()
    limits = CacheLimits(
        page_size=run.page_size, n_blocks=run.cache_blocks, max_seq_len=model.max_seq_len
    )
    _check_tokens(tokens, model, limits, files.where)
    precision = run.wanted.on(run.emulated_system, model)
    on_device = machine if precision.is_bfloat16 else None
    sampling = _sampling(run, files)
    if run.weights_cache is not None and os.path.isfile(run.weights_cache):
        raise ConfigError(f"--weights-cache {run.weights_cache} is a file; name a folder, or off")
    fingerprint = files.fingerprint()
    plan = Plan(
        files.checkpoint,
        model,
        precision,
        on_device,
        None if run.weights_cache is None else fingerprint,
        {"model": fingerprint, "tokenizer": tokenizer.checksum()},
        limits,
        sampling,
        prompts,
        tokens,
    )
    return plan, tokenizer


def _sampling(run: RunConfig, files: ModelFiles) -> SamplingParams:
    """Return how tokens are chosen: as asked; in chats, else as the model's makers advise."""
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


def _check_tokens(
    prompts: list[list[int]], model: LlamaConfig, limits: CacheLimits, where: str
) -> None:
    """Raise if a prompt is past the model's maximum, or none at all fits the cache."""
    for number, ids in enumerate(prompts, 1):
        if len(ids) > model.max_seq_len:
            raise ConfigError(
                f"prompt {number} has {len(ids)} tokens, the model was made for "
                f"{model.max_seq_len} positions: shorten the prompt"
            )
        if max(ids) >= model.vocab_size:
            raise ConfigError(
                f"prompt {number} has token {max(ids)}, the model knows {model.vocab_size}: "
                f"the tokenizer of {where} belongs to another model"
            )
    refusals = [limits.refusal(number, len(ids)) for number, ids in enumerate(prompts)]
    if refusals[0] is not None and None not in refusals:
        rest = f" (and so all {len(refusals)} prompts)" if len(refusals) > 1 else ""
        raise ConfigError(f"{refusals[0]}{rest}")
