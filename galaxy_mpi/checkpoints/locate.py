"""From what the user typed after ``--model`` to a folder."""

from pathlib import Path

from galaxy_mpi.errors import CheckpointError

__all__ = ["BUILT_IN", "default_prompts", "locate"]

BUILT_IN = {"demo": Path(__file__).parent / "demo"}
"""Models that come with the package, by name."""


def locate(model: str) -> Path:
    """Return the folder of a model.

    Raises
    ------
    CheckpointError
        If there is none.
    """
    if model in BUILT_IN:
        return BUILT_IN[model]
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder
    raise CheckpointError(
        f"no model folder at {model!r}: --model takes a Hugging Face folder (config.json, "
        f"*.safetensors, tokenizer.json) or one of: {', '.join(BUILT_IN)}"
    )


def default_prompts() -> list[str]:
    """Return the 32 prompts that come with the demo model."""
    return (BUILT_IN["demo"] / "prompts.txt").read_text("utf-8").splitlines()
