"""A model that was named, opened: sizes, tensors, tokenizer, chat template, defaults."""

from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from galaxy_mpi.checkpoints.chat_template import ChatTemplate
from galaxy_mpi.checkpoints.checkpoint import Checkpoint
from galaxy_mpi.checkpoints.fingerprint import Piece, fingerprint
from galaxy_mpi.checkpoints.gguf_file import GgufFile
from galaxy_mpi.checkpoints.hugging_face import open_folder
from galaxy_mpi.checkpoints.hugging_face_config import (
    Advice,
    notes_on_config,
    read_advice,
    read_config,
)
from galaxy_mpi.checkpoints.locate import locate
from galaxy_mpi.checkpoints.meta import MetaCheckpoint, is_meta_folder, open_meta
from galaxy_mpi.checkpoints.random_weights import RandomCheckpoint
from galaxy_mpi.checkpoints.tokenizer import NumberTokenizer, TextTokenizer, Tokenizer
from galaxy_mpi.errors import CheckpointError, ConfigError
from galaxy_mpi.models.config import LlamaConfig
from galaxy_mpi.models.presets import PRESETS
from galaxy_mpi.output import say_once

__all__ = ["ModelFiles", "model_sizes", "open_model"]


@dataclass(frozen=True)
class ModelFiles:
    """What rank 0 knows of a model's files."""

    config: LlamaConfig
    checkpoint: Checkpoint | MetaCheckpoint | RandomCheckpoint
    tokenizer: Tokenizer
    chat: ChatTemplate | None
    advice: Advice
    """Of ``generation_config.json``."""
    where: str
    paths: tuple[Path, ...] = ()
    """Files that hold the weights; none if they are made up."""

    def fingerprint(self) -> str | None:
        """Return what changes when the weights do (`galaxy_mpi.checkpoints.fingerprint`).

        None without files. The same weights in another folder are the same.

        Raises
        ------
        CheckpointError
            If a file cannot be read any more.
        """
        if not self.paths:
            return None
        if isinstance(self.checkpoint, Checkpoint):
            stored = sorted(self.checkpoint.tensors.items())
            pieces = [(each.path, each.offset, each.n_bytes) for _, each in stored]
            what = repr([(key, each.kind, each.shape) for key, each in stored])
            what += str(self.checkpoint.interleaved)
        else:  # of these only the library knows where tensors are
            pieces = [piece for path in self.paths for piece in _cut(path)]
            what = type(self.checkpoint).__name__
        try:
            return fingerprint(pieces, what)
        except OSError as error:
            raise CheckpointError(f"{self.where} cannot be read: {error.strerror}") from None


def _cut(path: Path, n_pieces: int = 256) -> list[Piece]:
    """Return a file in pieces of which each is sampled."""
    size = path.stat().st_size
    edges = [size * n // n_pieces for n in range(n_pieces + 1)]
    return [(path, start, stop - start) for start, stop in pairwise(edges)]


def model_sizes(model: str) -> LlamaConfig:
    """Return the sizes of a model that was named; no weights are needed.

    Raises
    ------
    CheckpointError
        If there is no such model, or it cannot be used.
    """
    if model in PRESETS:
        return PRESETS[model]
    path = locate(model)
    if path.is_file():
        return GgufFile(path).config
    if is_meta_folder(path):
        return open_meta(path).config
    config = read_config(path)
    for note in notes_on_config(path):
        say_once(note)
    return config


def open_model(model: str, n_layers: int | None = None) -> ModelFiles:
    """Open a model; see `locate` for what may be named.

    Parameters
    ----------
    model : str
    n_layers : int, optional
        Only the first so many layers.

    Raises
    ------
    CheckpointError
        If there is no such model, or it cannot be used.
    ConfigError
        If it has fewer layers.
    """
    if model in PRESETS:
        config = _first_layers(PRESETS[model], n_layers, f"the preset {model}")
        numbers = NumberTokenizer(config.vocab_size)
        return ModelFiles(config, RandomCheckpoint(config), numbers, None, Advice(), model)
    path = locate(model)
    if path.is_file():
        file = GgufFile(path)
        config = _first_layers(file.config, n_layers, f"the model in {path}")
        tokenizer, chat = TextTokenizer.of_gguf(file), ChatTemplate.of_gguf(file)
        checkpoint = file.checkpoint(config)
        return ModelFiles(config, checkpoint, tokenizer, chat, Advice(), str(path), (path,))
    return _open_folder(path, n_layers)


def _open_folder(path: Path, n_layers: int | None) -> ModelFiles:
    if is_meta_folder(path):
        checkpoint = open_meta(path)
        config = _first_layers(checkpoint.config, n_layers, f"the model in {path}")
        checkpoint = replace(checkpoint, config=config)
        tokenizer, chat = TextTokenizer.of_folder(path), ChatTemplate.of_folder(path)
        return ModelFiles(
            config, checkpoint, tokenizer, chat, Advice(), str(path), checkpoint.paths
        )
    config = _first_layers(read_config(path), n_layers, f"the model in {path}")
    for note in notes_on_config(path):
        say_once(note)
    return ModelFiles(
        config,
        open_folder(path, config),
        TextTokenizer.of_folder(path),
        ChatTemplate.of_folder(path),
        read_advice(path),
        str(path),
        tuple(sorted(path.glob("*.safetensors"))),
    )


def _first_layers(config: LlamaConfig, n_layers: int | None, what: str) -> LlamaConfig:
    if n_layers is not None and n_layers > config.n_layers:
        raise ConfigError(
            f"--layers {n_layers}: {what} has {config.n_layers} layers; ask for as many or fewer"
        )
    return replace(config, n_layers=n_layers or config.n_layers)
