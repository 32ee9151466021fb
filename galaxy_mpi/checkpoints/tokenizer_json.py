"""``tokenizer.json``, checked before the tokenizers library believes it.

The library panics on, or gives all memory for, values that it does not check itself. What cuts or
fills up prompts (``truncation``, ``padding``) is left out, as transformers does unless asked.
"""

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from galaxy_mpi.errors import CheckpointError
from galaxy_mpi.fields import read_bounded, read_json_fields, shown

__all__ = ["read_tokenizer_json"]

_MOST_BYTES = 2**28
"""The largest vocabularies have 33 MB."""

_LARGEST_NUMBER = 2**31
"""Of a token; what is no token is far below it."""

_MOST_GROWTH = 64
"""By how much replacements may lengthen a text, one after the other."""


def read_tokenizer_json(path: Path) -> str:
    """Return the text of a file that the library can be given.

    Raises
    ------
    CheckpointError
        If it is no JSON, or has values that no tokenizer has.
    """
    fields = read_json_fields(path, str(path), CheckpointError, most_bytes=_MOST_BYTES)
    content = fields.to_dict()
    for name in ("truncation", "padding"):
        content.pop(name, None)
    model = fields.object("model")
    if "dropout" in model and model.raw("dropout") != 0:
        raise CheckpointError(
            f"{path}: the model's dropout is {shown(model.raw('dropout'))}, which makes tokens "
            f"random; set it to null"
        )
    for part in ("normalizer", "pre_tokenizer", "post_processor", "decoder", "added_tokens"):
        _check_numbers(path, part, content.get(part))
    for part in ("normalizer", "pre_tokenizer", "decoder"):
        growth = 1
        for longest in _replacements(content.get(part)):
            growth *= longest
        if growth > _MOST_GROWTH:
            raise CheckpointError(
                f"{path}: the replacements of its {part} can make a text {growth} times as long, "
                f"at most {_MOST_GROWTH} is known; fetch the file again"
            )
    if "truncation" not in fields and "padding" not in fields:
        with suppress(OSError, ValueError):
            return read_bounded(path, _MOST_BYTES).decode("utf-8")  # faster than to write it anew
    return json.dumps(content)


def _check_numbers(path: Path, part: str, value: object) -> None:
    for each in _inside(value):
        if isinstance(each, (int, float)) and not -_LARGEST_NUMBER <= each <= _LARGEST_NUMBER:
            raise CheckpointError(
                f"{path}: {part} has the number {shown(each)}, which no tokenizer has; "
                f"fetch the file again"
            )


def _replacements(value: object) -> Iterator[int]:
    """Yield the length of what each step writes for a character or a match."""
    for each in _inside(value):
        if isinstance(each, dict) and each.get("type") in ("Replace", "Prepend"):
            text = each.get("content", each.get("prepend"))
            yield max(1, len(text)) if isinstance(text, str) else 1


def _inside(value: object) -> Iterator[object]:
    """Yield a value and all that is in it, without recursion: depth is the file's to choose."""
    waiting = [value]
    while waiting:
        each = waiting.pop()
        yield each
        if isinstance(each, dict):
            waiting.extend(each.values())
        elif isinstance(each, list):
            waiting.extend(each)
