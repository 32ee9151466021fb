"""Text to tokens and back, by the model's own tokenizer."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from galaxy_mpi.checkpoints.chat_template import ChatTemplate
from galaxy_mpi.checkpoints.gguf_file import GgufFile
from galaxy_mpi.checkpoints.tokenizer_json import read_tokenizer_json
from galaxy_mpi.errors import CheckpointError, ConfigError
from galaxy_mpi.fields import is_text

__all__ = ["NumberTokenizer", "TextTokenizer", "Tokenizer", "check_prompts"]

_LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2_SPLIT = _LLAMA3_SPLIT.replace(r"\p{N}{1,3}", r"\p{N}")

_CONTROL, _USER_DEFINED = 3, 4
"""Types of tokens in GGUF."""


_MOST_CHARACTERS_A_POSITION = 128
"""Characters of the longest tokens. A prompt with more per position can never fit."""


def check_prompts(prompts: Sequence[str], max_seq_len: int, first: int = 0) -> None:
    """Raise if a prompt is not text, or too long to tokenize.

    Tokens are counted later; this avoids tokenizing prompts that can never fit.

    Parameters
    ----------
    prompts : sequence of str
    max_seq_len : int
        Positions of the model.
    first : int
        Number of the user of the first.

    Raises
    ------
    ConfigError
        Naming the user.
    """
    most = max_seq_len * _MOST_CHARACTERS_A_POSITION
    for number, prompt in enumerate(prompts, first):
        if not is_text(prompt):
            raise ConfigError(f"the prompt of user {number} is not UTF-8; give it as UTF-8")
        if len(prompt) > most:
            raise ConfigError(
                f"the prompt of user {number} has {len(prompt)} characters, but the model supports "
                f"{max_seq_len} positions, which {most} characters always exceed: "
                f"shorten the prompt"
            )


@contextmanager
def _library(what: str) -> Iterator[None]:
    """Turn any error of the tokenizers library into a checkpoint error.

    Its panics are not `Exception` subclasses, so they would escape handlers and end one rank while
    the others wait for it.
    """
    try:
        yield
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except CheckpointError:
        raise
    except BaseException as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(f"{what}: {reason}; fetch the model's files again") from None


class TextTokenizer:
    """A tokenizer of the tokenizers library, on rank 0 only.

    Parameters
    ----------
    tokenizer : tokenizers.Tokenizer
        Without truncation and padding.
    where : str
        Its file, for messages.
    """

    def __init__(self, tokenizer: Any, where: str) -> None:
        self._tokenizer, self._where = tokenizer, where

    @classmethod
    def of_folder(cls, folder: Path) -> "TextTokenizer":
        """Return the tokenizer of a folder.

        Raises
        ------
        CheckpointError
            If ``tokenizer.json`` is missing or broken.
        """
        # Imported here because 31 of 32 ranks never need it.
        from tokenizers import Tokenizer

        path = folder / "tokenizer.json"
        if not path.is_file():
            raise CheckpointError(
                f"no tokenizer at {path}: the model folder needs tokenizer.json (for Meta's "
                f"folders, that of the same model on Hugging Face)"
            )
        text = read_tokenizer_json(path)
        with _library(f"{path} is not a tokenizer"):
            found = cls(Tokenizer.from_str(text), str(path))
            found._try_out()
            return found

    @classmethod
    def of_gguf(cls, file: GgufFile) -> "TextTokenizer":
        """Return the tokenizer that a GGUF file describes.

        Raises
        ------
        CheckpointError
            If its kind is not supported.
        """
        from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
        from tokenizers.processors import TemplateProcessing

        def split(pattern: str) -> list[object]:
            pieces = pre_tokenizers.Split(Regex(pattern), "isolated")
            return [pieces, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]

        by_words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        known: dict[str, list[object]] = {
            "smollm": [pre_tokenizers.Digits(individual_digits=True), by_words],
            "gpt-2": [by_words],
            "llama-bpe": split(_LLAMA3_SPLIT),
            "qwen2": split(_QWEN2_SPLIT),
        }
        kind, before = file.field("tokenizer.ggml.model"), file.field("tokenizer.ggml.pre", "gpt-2")
        if kind != "gpt2" or not isinstance(before, str) or before not in known:
            raise CheckpointError(
                f"the GGUF file's tokenizer is {kind!r}, {before!r}; known: 'gpt2' with "
                f"{', '.join(known)}; take the model's Hugging Face folder instead"
            )
        with _library("the GGUF file's tokenizer is broken"):
            tokens = file.field("tokenizer.ggml.tokens")
            merges = [tuple(pair.split(" ")) for pair in file.field("tokenizer.ggml.merges")]
            vocabulary = {token: number for number, token in enumerate(tokens)}
            tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
            tokenizer.pre_tokenizer = pre_tokenizers.Sequence(known[before])
            tokenizer.decoder = decoders.ByteLevel()
            types = zip(tokens, file.field("tokenizer.ggml.token_type"), strict=True)
            for token, kind_of_token in types:
                if kind_of_token in (_CONTROL, _USER_DEFINED):
                    special = kind_of_token == _CONTROL
                    added = [AddedToken(token, special=special, normalized=False)]
                    (tokenizer.add_special_tokens if special else tokenizer.add_tokens)(added)
            if file.field("tokenizer.ggml.add_bos_token"):
                number = file.field("tokenizer.ggml.bos_token_id")
                tokenizer.post_processor = TemplateProcessing(
                    single=f"{tokens[number]} $A", special_tokens=[(tokens[number], number)]
                )
            found = cls(tokenizer, "the GGUF file")
            found._try_out()
            return found

    def _try_out(self) -> None:
        """Tokenize a short text and back, which reveals some errors in a tokenizer."""
        ids = self._tokenizer.encode("Hello, 42!").ids
        self._tokenizer.decode(ids, skip_special_tokens=True)

    def checksum(self) -> str:
        """Return a hexadecimal digest of its words and rules."""
        # Only rank 0 calls this, so the others need not load it.
        from hashlib import blake2b

        return blake2b(self._tokenizer.to_str().encode(), digest_size=16).hexdigest()

    def encode(self, prompt: str, number: int, *, chat: ChatTemplate | None = None) -> list[int]:
        """Return the prompt's token ids; begin-of-text is added if the model uses it.

        Parameters
        ----------
        prompt : str
        number : int
            Of its user, for messages.
        chat : ChatTemplate, optional
            Wraps the prompt as a chat message, including special tokens.

        Raises
        ------
        ConfigError
            If there is nothing to encode.
        """
        if chat is not None:
            return self.encode_chat(chat.apply(prompt), number)
        return self._ids(prompt, number, begins=True)

    def encode_chat(self, text: str, number: int) -> list[int]:
        """Return the token ids of a chat that its template made; nothing is added.

        Raises
        ------
        ConfigError
            If there is nothing to encode.
        """
        return self._ids(text, number, begins=False)

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of generated tokens, without special ones."""
        with _library(f"{self._where} cannot decode tokens"):
            text: str = self._tokenizer.decode(list(tokens), skip_special_tokens=True)
        return text

    def _ids(self, text: str, number: int, *, begins: bool) -> list[int]:
        with _library(f"{self._where} cannot tokenize the prompt of user {number}"):
            ids: list[int] = self._tokenizer.encode(text, add_special_tokens=begins).ids
        if not text or not ids:
            raise ConfigError(
                f"the prompt of user {number} is empty; a prompt needs at least one character"
            )
        return ids


class NumberTokenizer:
    """For models without a vocabulary: one token per byte of text, and token numbers as text.

    Parameters
    ----------
    vocab_size : int
    """

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size

    def checksum(self) -> None:
        """Return nothing, because there are no words."""

    def encode(self, prompt: str, number: int, *, chat: ChatTemplate | None = None) -> list[int]:
        """Return a token for each byte."""
        return self.encode_chat(prompt, number)

    def encode_chat(self, text: str, number: int) -> list[int]:
        """Return a token for each byte."""
        if not text:
            raise ConfigError(
                f"the prompt of user {number} is empty; a prompt needs at least one character"
            )
        return [byte % self._vocab_size for byte in text.encode()]

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the tokens' numbers."""
        return "".join(f" {token}" for token in tokens)


Tokenizer = TextTokenizer | NumberTokenizer
