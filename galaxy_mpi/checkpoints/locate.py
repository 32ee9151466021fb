"""Find the files of a model given with ``--model``."""

import os
from pathlib import Path

from galaxy_mpi.errors import CheckpointError
from galaxy_mpi.fields import shown
from galaxy_mpi.models.presets import PRESETS

__all__ = ["BUILT_IN", "cache_folder", "default_prompts", "fetched", "locate"]

BUILT_IN = {"demo": Path(__file__).parent / "demo"}
"""Models that ship with the package, by name."""

FETCHED = {"smollm2": "SmolLM2-135M-Instruct.Q4_1.gguf"}
"""Models that ``launch/fetch_model.sh`` downloads to the user's cache folder."""


def cache_folder() -> Path:
    """Return the user's folder for files that can be fetched or created again.

    Without a home it is in the folder for temporary files. A relative ``XDG_CACHE_HOME`` is
    ignored, as its specification requires.
    """
    named = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(named):
        return Path(named) / "galaxy_mpi"
    try:
        return Path.home() / ".cache" / "galaxy_mpi"
    except RuntimeError:  # neither HOME nor an entry in passwd, as in some containers
        import tempfile  # imported here because it is rarely needed

        return Path(tempfile.gettempdir()) / f"galaxy_mpi-{os.getuid()}"


def fetched(name: str) -> Path:
    """Return the path of a fetched model, whether it exists or not."""
    return cache_folder() / name / FETCHED[name]


def locate(model: str) -> Path:
    """Return the folder or file of a model.

    Raises
    ------
    CheckpointError
        If there is none.
    """
    if model in BUILT_IN:
        return BUILT_IN[model]
    if model in FETCHED:
        path = fetched(model)
        if not os.path.isfile(path):
            raise CheckpointError(f"{model} is not at {path}: sh launch/fetch_model.sh {model}")
        return path
    try:
        path = Path(model).expanduser()
        if path.exists():
            return _readable(path)
    except CheckpointError:
        raise
    except (OSError, RuntimeError, ValueError):  # a name too long, ~nobody, a zero byte
        pass
    names = ", ".join((*BUILT_IN, *FETCHED, *PRESETS))
    raise CheckpointError(
        f"no model folder at {shown(model)}: --model takes a Hugging Face folder (config.json, "
        f"*.safetensors, tokenizer.json), a Meta folder (params.json, consolidated.*.pth), a GGUF "
        f"file or one of: {names}"
    )


def _readable(path: Path) -> Path:
    if not os.access(path, os.R_OK | (os.X_OK if path.is_dir() else 0)):
        raise CheckpointError(f"{path} cannot be read: Permission denied; is it another user's?")
    return path


def default_prompts() -> list[str]:
    """Return the 32 prompts that come with the demo model."""
    return (BUILT_IN["demo"] / "prompts.txt").read_text("utf-8").splitlines()
