"""Reads traces of requests: CSV with a header, or JSON lines."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path

from galaxy_mpi.errors import ConfigError
from galaxy_mpi.fields import Fields, read_bounded, shown
from galaxy_mpi.json_values import Json
from galaxy_mpi.serving.arrivals import Arrival, Size

__all__ = ["COLUMNS", "read_trace"]

COLUMNS = ("arrival_s", "input_tokens", "output_tokens", "prefix", "prefix_tokens", "cancel_s")
"""The last three are optional; ``cancel_s`` counts from the arrival."""

_MOST_BYTES = 2**28
_MOST_S = 1e9
_MOST_TOKENS = 2**20
_ADVICE = f"a trace needs {', '.join(COLUMNS[:3])}; {', '.join(COLUMNS[3:])} are optional"


def read_trace(path: Path) -> list[Arrival]:
    """Return the requests of a file.

    Raises
    ------
    ConfigError
        If the file cannot be read, or a line is wrong; the message names the line.
    """
    where = f"--trace {path}"
    try:
        text = read_bounded(path, _MOST_BYTES).decode("utf-8-sig")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{where}: {reason}; {_ADVICE}") from None
    rows = _json_rows if text.lstrip().startswith("{") else _csv_rows
    arrivals = [_arrival(fields) for fields in rows(text, where)]
    if not arrivals:
        raise ConfigError(f"{where} has no request; {_ADVICE}")
    return arrivals


def _csv_rows(text: str, where: str) -> Iterator[Fields]:
    reader = csv.DictReader(io.StringIO(text), skipinitialspace=True)
    try:
        for row in reader:
            here = f"{where}, line {reader.line_num}"
            if None in row:
                raise ConfigError(f"{here} has more values than the header has names; {_ADVICE}")
            values = {
                name: word if name == "prefix" else _number(word)
                for name, word in row.items()
                if word is not None and word.strip()
            }
            yield Fields(values, here, ConfigError, _ADVICE)
    except csv.Error as error:
        raise ConfigError(f"{where}, line {reader.line_num}: {error}; {_ADVICE}") from None


def _number(word: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            continue
    return word


def _json_rows(text: str, where: str) -> Iterator[Fields]:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        here = f"{where}, line {number}"
        try:
            values: Json = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{here} is no JSON: {error}; {_ADVICE}") from None
        if not isinstance(values, dict):
            raise ConfigError(f"{here} must be an object, got {shown(values)}; {_ADVICE}")
        yield Fields(values, here, ConfigError, _ADVICE)


def _arrival(fields: Fields) -> Arrival:
    unknown = [name for name in fields.names if name not in COLUMNS]
    if unknown:
        raise ConfigError(f"{fields.where} has an unknown field {shown(unknown[0])}; {_ADVICE}")
    prefix = fields.raw("prefix")
    size = Size(
        fields.whole("input_tokens", most=_MOST_TOKENS),
        fields.whole("output_tokens", most=_MOST_TOKENS),
        "" if prefix is None else shown(prefix) if type(prefix) is int else fields.text("prefix"),
        fields.whole("prefix_tokens", 0, least=0, most=_MOST_TOKENS),
        _seconds(fields, "cancel_s") if "cancel_s" in fields else None,
    )
    if bool(size.prefix) != bool(size.prefix_tokens) or size.prefix_tokens > size.input_tokens:
        raise fields.wrong(
            "prefix_tokens", f"1 to input_tokens ({size.input_tokens}) with a prefix, else 0"
        )
    return Arrival(_seconds(fields, "arrival_s"), size)


def _seconds(fields: Fields, name: str) -> float:
    if fields.raw(name) in (0, 0.0):
        return 0.0
    return fields.number(name, most=_MOST_S)
