"""Validated access to the fields of a file from elsewhere.

Every returned value has the type and range that the caller asked for, so later code need not check.
Every error is one line: what, got, wanted, where, what to do.
"""

import json
import math
from pathlib import Path

from galaxy_mpi.errors import UserError
from galaxy_mpi.json_values import Json

__all__ = ["Fields", "read_bounded", "read_json_fields", "shown"]

_MOST_SHOWN = 80

_MOST_JSON_BYTES = 16 * 2**20
"""Far beyond any configuration; an index of the largest models has 100 KB."""


def shown(value: object) -> str:
    """Return a value for a message, truncated if it is long.

    Examples
    --------
    >>> shown("a" * 200)[-5:]
    'aa...'
    """
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # integers of thousands of digits, deep nesting
        return f"a {type(value).__name__} too large to show"
    return text if len(text) <= _MOST_SHOWN else f"{text[: _MOST_SHOWN - 3]}..."


class Fields:
    """The fields of one object. A null field counts as missing.

    Parameters
    ----------
    values : dict
    where : str
        File, and place in it, for messages.
    error : type of UserError
        What is raised.
    advice : str
        What to do about it, for messages.

    Examples
    --------
    >>> fields = Fields({"size": 3}, "config.json", UserError)
    >>> fields.whole("size", most=8), fields.whole("depth", 1)
    (3, 1)
    """

    def __init__(
        self,
        values: dict[str, object],
        where: str,
        error: type[UserError],
        advice: str = "fetch the file again",
    ) -> None:
        self._values, self.where, self._error, self._advice = values, where, error, advice

    def __contains__(self, name: str) -> bool:
        return self._values.get(name) is not None

    @property
    def names(self) -> list[str]:
        """Names of the present fields."""
        return [name for name, value in self._values.items() if value is not None]

    def to_dict(self) -> dict[str, object]:
        """Return all fields unchanged, including null ones."""
        return dict(self._values)

    def raw(self, name: str) -> Json:
        """Return a field unchanged, None if it is missing."""
        return self._values.get(name)

    def wrong(self, name: str, wanted: str) -> UserError:
        """Return the error for an invalid field."""
        return self._error(
            f"{self.where}: {shown(name)[1:-1]} must be {wanted}, "
            f"got {shown(self._values.get(name))}; {self._advice}"
        )

    def whole(
        self, name: str, default: int | None = None, *, least: int = 1, most: int = 2**31
    ) -> int:
        """Return a whole number; without a default the field is required.

        Raises
        ------
        UserError
            If it is missing, of another type, or outside ``least`` to ``most``.
        """
        value = self._there(name, default)
        if type(value) is float and value.is_integer():
            value = int(value)
        if type(value) is not int or not least <= value <= most:
            raise self.wrong(name, f"a whole number from {least} to {most}")
        return value

    def number(
        self, name: str, default: float | None = None, *, above: float = 0.0, most: float = 1e15
    ) -> float:
        """Return a number that is larger than ``above`` and at most ``most``.

        Raises
        ------
        UserError
            If it is missing, not a finite number, or out of range.
        """
        value = self._there(name, default)
        if type(value) not in (int, float) or not above < value <= most or not math.isfinite(value):
            raise self.wrong(name, f"a number above {above:g}, at most {most:g}")
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        """Return true or false."""
        value = self._there(name, default)
        if type(value) is not bool:
            raise self.wrong(name, "true or false")
        return value

    def text(self, name: str, default: str | None = None) -> str:
        """Return a text that can be written as UTF-8."""
        value = self._there(name, default)
        if not isinstance(value, str) or not is_text(value):
            raise self.wrong(name, "a text")
        return value

    def wholes(self, name: str, *, least: int = 0, most: int = 2**31) -> tuple[int, ...]:
        """Return a list of whole numbers, also if there is only one; empty if it is missing."""
        value = self._values.get(name)
        if value is None:
            return ()
        values = value if isinstance(value, list) else [value]
        if not all(type(each) is int and least <= each <= most for each in values):
            raise self.wrong(name, f"a whole number from {least} to {most}, or a list of such")
        return tuple(values)

    def objects(self, name: str) -> "list[Fields]":
        """Return a list of objects; empty if it is missing."""
        value = self._values.get(name)
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
            raise self.wrong(name, "a list of objects")
        return [self._inner(each, f"{name}[{number}]") for number, each in enumerate(value)]

    def object(self, name: str) -> "Fields":
        """Return an object; an empty one if it is missing."""
        value = self._values.get(name)
        if value is None:
            value = {}
        if not isinstance(value, dict):
            raise self.wrong(name, "an object")
        return self._inner(value, name)

    def _inner(self, values: dict[Json, Json], name: str) -> "Fields":
        by_name = {str(key): value for key, value in values.items()}
        return Fields(by_name, f"{self.where}: {name}", self._error, self._advice)

    def _there(self, name: str, default: Json) -> Json:
        value = self._values.get(name)
        if value is None:
            value = default
        if value is None:
            raise self._error(f"{self.where} lacks the field {name!r}; {self._advice}")
        return value


def is_text(value: str) -> bool:
    """Return whether a text has no half of a surrogate pair, which is invalid in files."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def read_bounded(path: Path, most_bytes: int) -> bytes:
    """Return the bytes of a file.

    Raises
    ------
    OSError
        If it cannot be read.
    ValueError
        If it is larger than ``most_bytes``; no more than these are read.
    """
    with path.open("rb") as file:
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise ValueError(f"it is larger than {most_bytes // 2**20} MiB")
    return content


def read_json_fields(
    path: Path,
    where: str,
    error: type[UserError],
    advice: str = "fetch the file again",
    most_bytes: int = _MOST_JSON_BYTES,
    *,
    are_keys_unique: bool = False,
) -> Fields:
    """Return the fields of the object in a JSON file.

    Parameters
    ----------
    path : Path
    where : str
        Name of the file in messages.
    error : type of UserError
    advice : str
    most_bytes : int
    are_keys_unique : bool
        Whether a repeated key is an error; otherwise its last value counts.

    Raises
    ------
    UserError
        If it cannot be read, or is not a JSON object.
    """
    hook = _unique if are_keys_unique else None
    try:
        text = read_bounded(path, most_bytes).decode("utf-8")
        values = json.loads(text, object_pairs_hook=hook)
    except _RepeatedKeyError as failure:
        raise error(f"{where}: key {failure} appears twice in one object; keep one") from None
    except OSError as failure:
        raise error(f"{where}: {failure.strerror}; {advice}") from None
    except (ValueError, RecursionError) as failure:
        hint = "; JSON has no comments" if _is_commented(failure) else ""
        raise error(f"{where} is not readable JSON: {failure}{hint}; {advice}") from None
    if not isinstance(values, dict):
        raise error(f"{where} is not a JSON object; {advice}")
    return Fields(values, where, error, advice)


def _is_commented(failure: Exception) -> bool:
    """Return whether a comment is what cannot be read."""
    if not isinstance(failure, json.JSONDecodeError):
        return False
    return failure.doc[failure.pos :].lstrip().startswith(("#", "//", "/*"))


class _RepeatedKeyError(ValueError):
    """An object of a JSON file has a key twice."""


def _unique(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    """Return the object of pairs."""
    values = dict[str, Json]()
    for key, value in pairs:
        if key in values:
            raise _RepeatedKeyError(shown(key))
        values[key] = value
    return values
