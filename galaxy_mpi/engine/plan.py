"""What rank 0 finds out before a run and tells the others."""

from dataclasses import dataclass, replace
from pathlib import Path

from galaxy_mpi.checkpoints import (
    HuggingFaceCheckpoint,
    TextTokenizer,
    default_prompts,
    locate,
    read_config,
)
from galaxy_mpi.config import RunConfig
from galaxy_mpi.device import Machine
from galaxy_mpi.engine.request import CacheLimits
from galaxy_mpi.errors import ConfigError
from galaxy_mpi.models import LlamaConfig

__all__ = ["Plan", "make_plan"]


@dataclass(frozen=True)
class Plan:
    """The model and the prompts of a run."""

    folder: Path
    model: LlamaConfig
    machine: Machine | None
    """Whose device time is told; None for a precision that the device does not have."""
    limits: CacheLimits
    prompts: list[str]
    prompt_tokens: list[list[int]]


def make_plan(run: RunConfig) -> tuple[Plan, TextTokenizer]:
    """Read everything that one rank alone needs to read.

    Raises
    ------
    UserError
        If the model or a prompt cannot be used.
    """
    run.check_writable()
    machine = Machine.load(run.machine)
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
    tokenizer = TextTokenizer(folder)
    if run.prompt_tokens is None:
        tokens = [tokenizer.encode(prompt, n) for n, prompt in enumerate(prompts, 1)]
    else:
        tokens = [list(ids) for ids in run.prompt_tokens]
        prompts = [tokenizer.decode(ids) for ids in tokens]
    limits = CacheLimits(
        page_size=run.page_size, n_blocks=run.cache_blocks, max_seq_len=model.max_seq_len
    )
    _check_tokens(tokens, model, limits, folder)
    on_device = None if run.precision == "float32" else machine
    return Plan(folder, model, on_device, limits, prompts, tokens), tokenizer


def _check_tokens(
    prompts: list[list[int]], model: LlamaConfig, limits: CacheLimits, folder: Path
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
                f"tokenizer.json in {folder} belongs to another model"
            )
    refusals = [limits.refusal(number, len(ids)) for number, ids in enumerate(prompts)]
    if refusals[0] is not None and None not in refusals:
        rest = f" (and so all {len(refusals)} prompts)" if len(refusals) > 1 else ""
        raise ConfigError(f"{refusals[0]}{rest}")
