"""What a run is: the arguments of a command, checked."""

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from galaxy_mpi.errors import ConfigError
from galaxy_mpi.kernels import SamplingParams
from galaxy_mpi.mesh import Mesh
from galaxy_mpi.systems import PRECISIONS

__all__ = ["MAX_USERS", "RunConfig"]

MAX_USERS = 32
"""Users of a decode batch: the rows of a tile."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One decode run.

    Raises
    ------
    ConfigError
        If a value cannot be used; the message names the argument.
    """

    model: str = "demo"
    prompts: tuple[str, ...] | None = None
    """None: the prompts that come with the demo model."""
    prompts_file: Path | None = None
    max_new_tokens: int = 32
    batch: int | None = None
    """User places; None: 32."""
    mesh: Mesh = field(default_factory=Mesh)
    precision: str = "performance"
    sampling: SamplingParams = field(default_factory=SamplingParams)
    n_layers: int | None = None
    """Only the first so many layers of the model; None: all."""
    prefetch: bool = True
    circular_buffer_bytes: int | None = None
    json_path: Path | None = None

    def __post_init__(self) -> None:
        if self.prompts is not None and self.prompts_file is not None:
            raise ConfigError("give --prompt or --prompts-file, not both")
        if self.precision not in PRECISIONS:
            raise ConfigError(f"no precision {self.precision!r}; choose {', '.join(PRECISIONS)}")
        for name, value, least in (
            ("--max-new-tokens", self.max_new_tokens, 1),
            ("--batch", self.batch, 1),
            ("--layers", self.n_layers, 1),
            ("--circular-buffer-bytes", self.circular_buffer_bytes, 1),
        ):
            if value is not None and value < least:
                raise ConfigError(f"{name} must be at least {least}, got {value}")
        if self.batch is not None and self.batch > MAX_USERS:
            raise ConfigError(f"--batch is at most {MAX_USERS} users, got {self.batch}")

    def check_writable(self) -> None:
        """Raise ConfigError if ``json_path`` could not be written at the end of the run."""
        if self.json_path is not None:
            _check_writable(self.json_path)

    def read_prompts(self, defaults: list[str]) -> list[str]:
        """Return the prompts of the run.

        Raises
        ------
        ConfigError
            If the file cannot be read, a prompt is empty, or there are more than the batch holds.
        """
        limit = self.batch or MAX_USERS
        if self.prompts_file is not None:
            try:
                prompts = self.prompts_file.read_text("utf-8").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigError(f"--prompts-file {self.prompts_file}: {error}") from None
            if not prompts:
                raise ConfigError(f"--prompts-file {self.prompts_file} has no line")
        elif self.prompts is not None:
            prompts = list(self.prompts)
        else:
            prompts = defaults[:limit]
        if len(prompts) > limit:
            raise ConfigError(
                f"{len(prompts)} prompts are more than the {limit} users of a batch; "
                f"the limit is {MAX_USERS}"
            )
        for number, prompt in enumerate(prompts, 1):
            if not prompt:
                raise ConfigError(
                    f"prompt {number} is empty; a prompt needs at least one character"
                )
        return prompts


def _check_writable(path: Path) -> None:
    """Raise if no file can be made beside ``path``; nothing is left behind."""
    if path.is_dir():
        raise ConfigError(f"--json {path} is a folder; give the name of a file")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise ConfigError(f"--json {path} cannot be written: {error.strerror}") from None
