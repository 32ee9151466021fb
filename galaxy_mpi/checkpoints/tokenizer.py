"""Text to tokens and back, by the model's own tokenizer; prompts of chats by its own template."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from galaxy_mpi.checkpoints.gguf_file import GgufFile
from galaxy_mpi.checkpoints.hugging_face import read_json
from galaxy_mpi.errors import CheckpointError, ConfigError

__all__ = ["ChatTemplate", "NumberTokenizer", "TextTokenizer", "Tokenizer"]

_LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2_SPLIT = _LLAMA3_SPLIT.replace(r"\p{N}{1,3}", r"\p{N}")

_CONTROL, _USER_DEFINED = 3, 4
"""Types of tokens in GGUF."""


@dataclass(frozen=True)
class ChatTemplate:
    """A model's chat template.

    Parameters
    ----------
    source : str
        Jinja.
    tokens : dict of str to str
        Special tokens that the template names, as ``bos_token``.
    """

    source: str
    tokens: dict[str, str]

    def apply(self, prompt: str) -> str:
        """Return the text of a chat of one message by the user, up to where the model goes on.

        Raises
        ------
        CheckpointError
            If the template cannot be rendered.
        """
        from jinja2 import TemplateError  # here, not above: only for chats
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        def refuse(message: str) -> None:
            raise TemplateError(message)

        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals["raise_exception"] = refuse
        messages = [{"role": "user", "content": prompt}]
        try:
            template = environment.from_string(self.source)
            return template.render(messages=messages, add_generation_prompt=True, **self.tokens)
        except Exception as error:  # a template may do anything that Jinja lets it
            raise CheckpointError(
                f"the model's chat template cannot be rendered: {error}; leave out --chat"
            ) from None

    @classmethod
    def of_folder(cls, folder: Path) -> "ChatTemplate | None":
        """Return the template of a Hugging Face folder; None if it has none."""
        path = folder / "tokenizer_config.json"
        fields = read_json(path) if path.is_file() else {}
        source = fields.get("chat_template")
        if source is None and (folder / "chat_template.jinja").is_file():
            source = (folder / "chat_template.jinja").read_text("utf-8")
        if isinstance(source, list):  # several, by name
            source = next((e["template"] for e in source if e.get("name") == "default"), None)
        if not isinstance(source, str):
            return None
        tokens = {}
        for name in ("bos_token", "eos_token", "unk_token", "pad_token"):
            token = fields.get(name)
            token = token.get("content") if isinstance(token, dict) else token
            tokens[name] = token if isinstance(token, str) else ""
        return cls(source, tokens)

    @classmethod
    def of_gguf(cls, file: GgufFile) -> "ChatTemplate | None":
        """Return the template of a GGUF file; None if it has none."""
        source = file.field("tokenizer.chat_template")
        if source is None:
            return None
        known = file.field("tokenizer.ggml.tokens")
        tokens = {}
        for name in ("bos", "eos", "unknown", "padding"):
            number = file.field(f"tokenizer.ggml.{name}_token_id")
            short = {"unknown": "unk", "padding": "pad"}.get(name, name)
            tokens[f"{short}_token"] = "" if number is None else known[number]
        return cls(source, tokens)


class TextTokenizer:
    """A tokenizer of the tokenizers library. Only rank 0 makes one."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    @classmethod
    def of_folder(cls, folder: Path) -> "TextTokenizer":
        """Return the tokenizer of a folder.

        Raises
        ------
        CheckpointError
            If ``tokenizer.json`` is missing or broken.
        """
        # Here, not above: 31 of 32 ranks never need it.
        from tokenizers import Tokenizer

        path = folder / "tokenizer.json"
        if not path.is_file():
            raise CheckpointError(
                f"no tokenizer at {path}: the model folder needs tokenizer.json (for Meta's "
                f"folders, that of the same model on Hugging Face)"
            )
        try:
            return cls(Tokenizer.from_file(str(path)))
        except Exception as error:  # tokenizers raises plain Exception
            raise CheckpointError(f"{path} is not a tokenizer: {error}") from None

    @classmethod
    def of_gguf(cls, file: GgufFile) -> "TextTokenizer":
        """Return the tokenizer that a GGUF file describes.

        Raises
        ------
        CheckpointError
            If it is of a kind that is not known here.
        """
        from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
        from tokenizers.processors import TemplateProcessing

        def split(pattern: str) -> list[Any]:
            pieces = pre_tokenizers.Split(Regex(pattern), "isolated")
            return [pieces, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]

        by_words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        known: dict[str, list[Any]] = {
            "smollm": [pre_tokenizers.Digits(individual_digits=True), by_words],
            "gpt-2": [by_words],
            "llama-bpe": split(_LLAMA3_SPLIT),
            "qwen2": split(_QWEN2_SPLIT),
        }
        kind, before = file.field("tokenizer.ggml.model"), file.field("tokenizer.ggml.pre", "gpt-2")
        if kind != "gpt2" or before not in known:
            raise CheckpointError(
                f"the GGUF file's tokenizer is {kind!r}, {before!r}; known: 'gpt2' with "
                f"{', '.join(known)}; take the model's Hugging Face folder instead"
            )
        try:
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
        except Exception as error:  # the header may hold anything
            raise CheckpointError(f"the GGUF file's tokenizer is broken: {error}") from None
        return cls(tokenizer)

    def encode(self, prompt: str, number: int, *, chat: ChatTemplate | None = None) -> list[int]:
        """Return the prompt's token ids; begin-of-text is added where the model wants it.

        Parameters
        ----------
        prompt : str
        number : int
            Said in messages.
        chat : ChatTemplate, optional
            Makes the prompt the message of a chat, and adds what the model wants.

        Raises
        ------
        ConfigError
            If there is nothing to encode.
        """
        if chat is not None:
            text = chat.apply(prompt)
            ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        else:
            ids = self._tokenizer.encode(prompt).ids
        if not prompt or not ids:
            raise ConfigError(f"prompt {number} is empty; a prompt needs at least one character")
        return ids

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of generated tokens, special ones left out."""
        text: str = self._tokenizer.decode(list(tokens), skip_special_tokens=True)
        return text


class NumberTokenizer:
    """For models without words: a token for every byte of the text, numbers for tokens.

    Parameters
    ----------
    vocab_size : int
    """

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size

    def encode(self, prompt: str, number: int, *, chat: ChatTemplate | None = None) -> list[int]:
        """Return a token for each byte."""
        if not prompt:
            raise ConfigError(f"prompt {number} is empty; a prompt needs at least one character")
        return [byte % self._vocab_size for byte in prompt.encode()]

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the tokens' numbers."""
        return "".join(f" {token}" for token in tokens)


Tokenizer = TextTokenizer | NumberTokenizer
