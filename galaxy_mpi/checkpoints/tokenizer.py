"""Text to tokens and back, by the model's own ``tokenizer.json``."""

from collections.abc import Sequence
from pathlib import Path

from galaxy_mpi.errors import CheckpointError, ConfigError

__all__ = ["TextTokenizer"]


class TextTokenizer:
    """The tokenizer of a model folder. Only rank 0 makes one.

    Raises
    ------
    CheckpointError
        If ``tokenizer.json`` is missing or broken.
    """

    def __init__(self, folder: Path) -> None:
        # Here, not above: 31 of 32 ranks never need it.
        from tokenizers import Tokenizer

        path = folder / "tokenizer.json"
        if not path.is_file():
            raise CheckpointError(f"no tokenizer at {path}: the model folder needs tokenizer.json")
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises plain Exception
            raise CheckpointError(f"{path} is not a tokenizer: {error}") from None

    def encode(self, prompt: str, number: int) -> list[int]:
        """Return the prompt's token ids; begin-of-text is added where the model wants it.

        Raises
        ------
        ConfigError
            If there is nothing to encode. ``number`` is said in the message.
        """
        ids: list[int] = self._tokenizer.encode(prompt).ids
        if not prompt or not ids:
            raise ConfigError(f"prompt {number} is empty; a prompt needs at least one character")
        return ids

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of generated tokens, special ones left out."""
        text: str = self._tokenizer.decode(list(tokens), skip_special_tokens=True)
        return text
