"""Damage: to bytes, to text, and to the structure of JSON and YAML."""

import copy
import json
import random
import re
from collections.abc import Callable
from typing import Any

HOSTILE: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    7,
    0.5,
    -0.0,
    1e-320,
    1e308,
    float("nan"),
    float("inf"),
    float("-inf"),
    2**31,
    2**32 - 1,
    2**63,
    -(2**63),
    10**30,
    10**400,
    "",
    "x",
    "\x00",
    "default",
    "llama3",
    "\ud800",
    "\u202e",
    "../../etc/passwd",
    "9" * 400,
    "a" * 100_000,
    [],
    [[]],
    [None],
    [1, "x"],
    {},
    {"": {}},
    {"a": [1]},
    [0] * 5000,
)
"""Values that readers stumble on."""

WORDS = [
    "NaN",
    "-Infinity",
    "1e999",
    "-1",
    "0",
    "9999999999999999999",
    "0x10",
    "null",
    "true",
    "{}",
    "[]",
    '{"a":1}',
    "[[[[",
    "\\ud800",
    "\\u0000",
    "<<:",
    "&a",
    "*a",
    "!!python/object:os.system",
    "?",
    "|",
    ">",
    "%TAG",
    "@",
    "`",
    "---",
    "...",
    "1:2:3",
    "2001-99-99",
    "{%",
    "endfor",
    "%}",
    "{{",
    "}}",
    "{%",
    "for",
    "x",
    "in",
    "y",
    "%}",
    "|tojson",
    "__class__",
    "messages[0]",
    "'x'*999",
    "loop.index",
    "{#",
    "#}",
]
"""Pieces of the languages that files are written in."""


def damaged_bytes(good: bytes, chance: random.Random, first: int | None = None) -> bytes:
    """Return bytes with some changed, put in, taken out or put elsewhere.

    Parameters
    ----------
    good : bytes
    chance : random.Random
    first : int, optional
        Only the first so many are touched: a header.
    """
    content = bytearray(good)
    for _ in range(chance.choice((1, 1, 1, 2, 8))):
        n = min(len(content), first or len(content))
        if n == 0:
            break
        at, kind = chance.randrange(n), chance.randrange(7)
        if kind <= 1:
            content[at] = chance.choice((0, 1, 0x20, 0x30, 0x39, 0x7F, 0x80, 0xFF, 0x7B, 0x22))
        elif kind == 2:
            content[at] ^= 1 << chance.randrange(8)
        elif kind == 3:
            del content[at : at + chance.choice((1, 2, 8, 100))]
        elif kind == 4:
            content[at:at] = chance.choice(WORDS).encode()
        elif kind == 5:
            width = chance.choice((1, 4, 8, 50))
            to = chance.randrange(n)
            content[to : to + width] = content[at : at + width]
        elif chance.random() < 0.1:
            del content[at:]
        else:
            number = chance.choice((0, 1, 2**31, 2**32 - 1, 2**56, 2**63, 2**64 - 1))
            content[at : at + 8] = number.to_bytes(8, "little")
    return bytes(content)


LONG_WORDS = (
    "[" * 50_000,
    '{"a":' * 50_000,
    "9" * 5000,
    '"' + "9" * 5000 + '"',
    "0x" + "f" * 5000,
    "!!timestamp 2001-99-99",
    "!!int x",
    "!!float x",
    "!!binary '*'",
    "!!set {a, b}",
    "? [1, 2]\n: 3",
    "<<: [1]",
    "&a [*a]",
    "2001-99-99",
    "7: {value: 1}",
    "null: {value: 1}",
    "190:20:30",
    ".nan",
    "-.inf",
    "1_000",
    "0o777",
    "\\u0000",
)
"""Pieces that take the place of a whole word."""


def damaged_words(good: bytes, chance: random.Random) -> bytes:
    """Return text in which words became others."""
    text = good.decode("utf-8", "replace")
    for _ in range(chance.choice((1, 1, 2))):
        spans = [match.span() for match in re.finditer(r'"[^"]*"|[\w.+-]+', text)]
        if spans:
            start, stop = chance.choice(spans)
            text = text[:start] + chance.choice((*WORDS, *LONG_WORDS)) + text[stop:]
    return text.encode("utf-8", "replace")


def damaged_tree(good: Any, chance: random.Random) -> Any:
    """Return a structure with values replaced, taken out, put in or exchanged."""
    tree = copy.deepcopy(good)
    for _ in range(chance.choice((1, 1, 2, 4))):
        places = list(_places(tree))
        if not places:
            return chance.choice(HOSTILE)
        holder, key = chance.choice(places)
        kind = chance.randrange(8)
        if kind <= 3:
            holder[key] = copy.deepcopy(chance.choice(HOSTILE))
        elif kind == 4:
            del holder[key]
        elif kind == 5:
            other, place = chance.choice(places)
            holder[key] = copy.deepcopy(other.get(place) if isinstance(other, dict) else None)
        elif kind == 6 and isinstance(holder, dict):
            name = str(chance.choice(HOSTILE))[:50]
            holder[name] = holder.pop(key)
        else:
            holder[key] = [holder[key]]
    return tree


def _places(tree: Any) -> Any:
    waiting = [tree]
    while waiting:
        holder = waiting.pop()
        keys = list(holder) if isinstance(holder, dict) else range(len(holder))
        for key in keys:
            yield holder, key
            if isinstance(holder[key], (dict, list)):
                waiting.append(holder[key])


def damaged_json(good: bytes, chance: random.Random) -> bytes:
    """Return JSON with a damaged structure, or with damaged bytes."""
    return _either(good, chance, json.loads, _to_json)


def damaged_yaml(good: bytes, chance: random.Random) -> bytes:
    """Return YAML with a damaged structure, or with damaged bytes."""
    import yaml

    def to_yaml(tree: Any) -> bytes:
        text: str = yaml.safe_dump(tree, allow_unicode=True)
        return text.encode("utf-8", "replace")

    return _either(good, chance, yaml.safe_load, to_yaml)


def _either(
    good: bytes,
    chance: random.Random,
    read: Callable[[bytes], Any],
    write: Callable[[Any], bytes],
) -> bytes:
    kind = chance.random()
    if kind < 0.5:
        return (damaged_bytes if kind < 0.25 else damaged_words)(good, chance)
    content = write(damaged_tree(read(good), chance))
    return damaged_bytes(content, chance) if chance.random() < 0.1 else content


def _to_json(tree: Any) -> bytes:
    return json.dumps(tree).encode()
