"""The text that is fed to a model, whatever it would say itself."""

from pathlib import Path

from galaxy_mpi.config import RunConfig
from galaxy_mpi.engine.plan import Plan
from galaxy_mpi.engine.planning import make_plan
from galaxy_mpi.errors import ConfigError
from galaxy_mpi.fields import read_bounded

__all__ = ["plan_of_text"]

_MOST_TEXT_BYTES = 2**28


def plan_of_text(run: RunConfig, text: Path, n_tokens: int) -> tuple[Plan, list[int]]:
    """Return the plan of a run, and the first tokens of a text.

    Raises
    ------
    ConfigError
        If the text cannot be read, or has fewer than 2 tokens or more than the model takes.
    """
    plan, tokenizer = make_plan(run)
    try:
        content = read_bounded(text, _MOST_TEXT_BYTES).decode("utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(f"--text {text} cannot be read as UTF-8: {error}") from None
    # Of a long text only the beginning is looked at; no token is longer than that.
    tokens = tokenizer.encode(content[: 128 * n_tokens], 1)[:n_tokens]
    most = min(plan.model.max_seq_len, plan.limits.n_positions)
    if not 2 <= len(tokens) <= most:
        raise ConfigError(f"--text {text} has {len(tokens)} tokens; 2 to {most} can be compared")
    return plan, tokens
