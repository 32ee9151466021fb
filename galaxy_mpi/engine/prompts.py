"""The prompts of a run: read, truncated if requested, and tokenized.

A prompt that cannot be used ends the run; with ``--skip-bad`` it is left out, with a message. Users
are numbered from 0 in the order of the prompts, including those that are left out.
"""

import codecs
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from galaxy_mpi.checkpoints.chat_template import ChatTemplate
from galaxy_mpi.checkpoints.tokenizer import Tokenizer, check_prompts
from galaxy_mpi.config import MAX_USERS, RunConfig
from galaxy_mpi.engine.request import CacheLimits
from galaxy_mpi.errors import ConfigError
from galaxy_mpi.fields import read_bounded
from galaxy_mpi.models import LlamaConfig
from galaxy_mpi.streams import read_input

__all__ = ["Prompts"]

_MOST_BYTES = 2**28


@dataclass
class Prompts:
    """The prompts of the users.

    Parameters
    ----------
    run : RunConfig
    texts : list of str
        Empty where a prompt cannot be read.
    bad : dict of int to str
        Why users are left out.
    """

    run: RunConfig
    texts: list[str]
    bad: dict[int, str] = field(default_factory=dict)
    tokens: list[list[int]] = field(default_factory=list)

    @classmethod
    def read(cls, run: RunConfig, defaults: list[str]) -> "Prompts":
        """Read the prompts of a run; of ``defaults`` as many as the batch has places.

        Raises
        ------
        ConfigError
            If the file cannot be read, or a prompt in it.
        """
        prompts = cls(run, [])
        if run.prompts_file is not None:
            for number, line in _lines(run.prompts_file):
                where = f"--prompts-file {run.prompts_file}, line {number}"
                is_json = run.prompts_file.suffix == ".jsonl"
                prompts._add(where, line, _of_json if is_json else _of_text)
        else:
            default = defaults[: run.batch or MAX_USERS]
            prompts.texts = default if run.prompts is None else list(run.prompts)
        return prompts

    def encode(
        self,
        model: LlamaConfig,
        tokenizer: Tokenizer,
        chat: ChatTemplate | None,
        limits: CacheLimits,
        where: str,
    ) -> None:
        """Fill in ``tokens``: of users that are left out none.

        Parameters
        ----------
        model : LlamaConfig
        tokenizer : Tokenizer
        chat : ChatTemplate or None
            None: prompts are no chats.
        limits : CacheLimits
        where : str
            Of the tokenizer, for messages.

        Raises
        ------
        ConfigError
            If a prompt cannot be used, and is not to be left out, or none is left.
        """
        if self.run.prompt_tokens is not None:
            given = [list(ids) for ids in self.run.prompt_tokens]
            self.texts = [tokenizer.decode(ids) for ids in given]
            self._each(lambda user: self._fitting(user, given[user], model, limits, where))
            return
        self._each(lambda user: check_prompts([self.texts[user]], model.max_seq_len, user))
        texts = list(self.texts)
        if chat is not None:
            users = [user for user in range(len(texts)) if user not in self.bad]
            of_chat = chat.apply_to_all([texts[user] for user in users])
            for user, text in zip(users, of_chat, strict=True):
                texts[user] = text

        def encode(user: int) -> None:
            check_prompts([texts[user]], model.max_seq_len, user)
            to_tokens = tokenizer.encode if chat is None else tokenizer.encode_chat
            self._fitting(user, to_tokens(texts[user], user), model, limits, where)

        self._each(encode)

    def _each(self, work: Callable[[int], None]) -> None:
        """Apply a step to every user that is not left out; it may leave out more."""
        self.tokens = [[] for _ in self.texts]
        for user in range(len(self.texts)):
            if user not in self.bad:
                try:
                    work(user)
                except ConfigError as error:
                    self._leave_out(user, error)
        if len(self.bad) == len(self.texts):
            raise ConfigError(f"no prompt is left: {self.bad[0]}")

    def _fitting(
        self, user: int, ids: list[int], model: LlamaConfig, limits: CacheLimits, where: str
    ) -> None:
        """Keep the tokens of a user, cut if that is asked for."""
        most = model.max_seq_len
        if self.run.truncate:
            most = max(1, limits.n_positions - self.run.max_new_tokens)
            ids = ids[-most:]
        if len(ids) > most:
            raise ConfigError(
                f"the prompt of user {user} has {len(ids)} tokens, but the model supports "
                f"{most} positions: shorten the prompt, or add --truncate"
            )
        if max(ids) >= model.vocab_size:
            raise ConfigError(
                f"the prompt of user {user} has token {max(ids)}, the model knows "
                f"{model.vocab_size}: the tokenizer of {where} belongs to another model"
            )
        self.tokens[user] = ids

    def _add(self, where: str, line: bytes, read: Callable[[str, bytes], str]) -> None:
        self.texts.append("")
        try:
            self.texts[-1] = read(where, line)
        except ConfigError as error:
            self._leave_out(len(self.texts) - 1, error)

    def _leave_out(self, user: int, error: ConfigError) -> None:
        if not self.run.skip_bad:
            raise error
        self.bad[user] = f"user {user} is left out: {error}"


def _lines(path: Path) -> list[tuple[int, bytes]]:
    """Return the lines of a file with their numbers; of ``-``, those of standard input."""
    name = f"--prompts-file {path}"
    try:
        if str(path) == "-":
            content = read_input(_MOST_BYTES + 1, os.environ)
            if len(content) > _MOST_BYTES:
                raise ValueError(f"it is larger than {_MOST_BYTES // 2**20} MiB")
        else:
            content = read_bounded(path, _MOST_BYTES)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from None
    except OSError as error:
        raise ConfigError(
            f"{name}: {error.strerror}; give a text file with one prompt a line"
        ) from None
    except ValueError as error:
        raise ConfigError(f"{name}: {error}; give a shorter file") from None
    lines = content.removeprefix(codecs.BOM_UTF8).splitlines()  # some editors write this mark
    if not lines:
        raise ConfigError(f"{name} has no line; give one prompt a line")
    return list(enumerate(lines, 1))


def _of_text(where: str, line: bytes) -> str:
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{where} is not UTF-8 (byte {error.start + 1} of the line); save the file as UTF-8"
        ) from None
    if not text.strip():
        raise ConfigError(f"{where} is empty; every line is a prompt")
    return text


def _of_json(where: str, line: bytes) -> str:
    """Return the prompt of a JSON line: a text, or an object that has one as ``prompt``."""
    try:
        found = json.loads(_of_text(where, line))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where} is not JSON: {error}"[:300]) from None
    text = found.get("prompt") if isinstance(found, dict) else found
    if not isinstance(text, str) or not text:
        raise ConfigError(f'{where} needs a text, or an object as {{"prompt": "a text"}}')
    return text
