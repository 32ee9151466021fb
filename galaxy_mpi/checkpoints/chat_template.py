"""A model's chat template: found in its files, rendered in a process with limits."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from galaxy_mpi.checkpoints.gguf_file import GgufFile
from galaxy_mpi.checkpoints.hugging_face_config import read_json
from galaxy_mpi.errors import CheckpointError
from galaxy_mpi.fields import Fields, is_text, read_bounded

__all__ = ["ChatTemplate"]

_CHILD = Path(__file__).parent / "render_template.py"

_WALL_S = 15
"""Limit for all prompts. The child has less processor time, but a host may be busy."""

_MOST_BYTES = 2**20


@dataclass(frozen=True)
class ChatTemplate:
    """A model's chat template.

    Parameters
    ----------
    source : str
        Jinja.
    tokens : dict of str to str
        Special tokens that the template uses, such as ``bos_token``.
    """

    source: str
    tokens: dict[str, str]

    def apply(self, prompt: str) -> str:
        """Return the text of a chat of one message by the user, up to where the model continues.

        Raises
        ------
        CheckpointError
            If the template cannot be rendered.
        """
        return self.apply_to_all([prompt])[0]

    def apply_to_all(self, prompts: Sequence[str]) -> list[str]:
        """Return the text of each prompt's chat; see `apply`. One process renders them all."""
        request = {
            "path": sys.path,
            "source": self.source,
            "tokens": self.tokens,
            "prompts": list(prompts),
        }
        import subprocess  # imported here: only rank 0 renders, and only for chats

        try:
            # The environment is empty, because a launcher's variables are not meant for the child.
            child = subprocess.run(
                [sys.executable, "-I", str(_CHILD)],
                input=json.dumps(request).encode(),
                capture_output=True,
                env={},
                timeout=_WALL_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise _cannot(f"it takes longer than {_WALL_S} s") from None
        except OSError as error:
            raise _cannot(f"no process can be started: {error.strerror}") from None
        try:
            answer = json.loads(child.stdout)
        except ValueError:
            raise _cannot("it exceeds its limit of time or memory") from None
        if "error" in answer:
            raise _cannot(answer["error"])
        texts: list[str] = answer["texts"]
        return texts

    @classmethod
    def of_folder(cls, folder: Path) -> "ChatTemplate | None":
        """Return the template of a Hugging Face folder; None if it has none.

        Raises
        ------
        CheckpointError
            If a file cannot be read.
        """
        path, alone = folder / "tokenizer_config.json", folder / "chat_template.jinja"
        fields = read_json(path) if path.is_file() else Fields({}, str(path), CheckpointError)
        source = _default_of(fields)
        if source is None and alone.is_file():
            try:
                source = read_bounded(alone, _MOST_BYTES).decode("utf-8")
            except OSError as error:
                raise CheckpointError(f"{alone} cannot be read: {error.strerror}") from None
            except ValueError as error:
                raise CheckpointError(f"{alone} is not a template: {error}") from None
        if source is None:
            return None
        tokens = {}
        for name in ("bos_token", "eos_token", "unk_token", "pad_token"):
            held = isinstance(fields.raw(name), dict)  # with details of its tokenization
            token = fields.object(name).raw("content") if held else fields.raw(name)
            tokens[name] = token if isinstance(token, str) else ""
        return cls(source, tokens)

    @classmethod
    def of_gguf(cls, file: GgufFile) -> "ChatTemplate | None":
        """Return the template of a GGUF file; None if it has none.

        Raises
        ------
        CheckpointError
            If the file's header is broken.
        """
        source = file.field("tokenizer.chat_template")
        if source is None:
            return None
        if not isinstance(source, str):
            raise CheckpointError("the GGUF file's chat template is not text; fetch the file again")
        known = file.field("tokenizer.ggml.tokens")
        tokens = {}
        for name in ("bos", "eos", "unknown", "padding"):
            number = file.field(f"tokenizer.ggml.{name}_token_id")
            short = {"unknown": "unk", "padding": "pad"}.get(name, name)
            is_known = isinstance(known, list) and isinstance(number, int)
            if number is not None and not (is_known and 0 <= number < len(known)):
                raise CheckpointError(
                    f"the GGUF file's {name}_token_id is {number!r}, not one of its tokens; "
                    f"fetch the file again"
                )
            tokens[f"{short}_token"] = "" if number is None else str(known[number])
        return cls(source, tokens)


def _default_of(fields: Fields) -> str | None:
    """Return the template in ``tokenizer_config.json``; of several, that named ``default``."""
    if not isinstance(fields.raw("chat_template"), list):
        return fields.text("chat_template") if "chat_template" in fields else None
    for template in fields.objects("chat_template"):
        if template.raw("name") == "default":
            return template.text("template")
    return None


def _cannot(reason: str) -> CheckpointError:
    shown = reason if is_text(reason) else ascii(reason)
    return CheckpointError(
        f"the model's chat template cannot be rendered: {' '.join(shown.split())}; leave out --chat"
    )
