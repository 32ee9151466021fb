"""What commands print: text laid out for a terminal, and standard output that may be closed."""

import contextlib
import functools
import logging
import os
import re
import shlex
import sys
import textwrap
from collections.abc import Sequence
from typing import Any, TextIO

from galaxy_mpi.errors import ConfigError

__all__ = [
    "WIDTH",
    "Lasting",
    "cell",
    "command_line",
    "folded",
    "named_lines",
    "plural",
    "print_text",
    "say_once",
    "write_now",
]


def plural(n: int, one: str, many: str | None = None) -> str:
    """Return a count with its noun.

    Examples
    --------
    >>> plural(1, "pass", "passes"), plural(4, "link")
    ('1 pass', '4 links')
    """
    return f"{n} {one if n == 1 else many or one + 's'}"


WIDTH = 80
"""Columns that a table may use."""


def folded(text: str, indent: str = "  ") -> str:
    """Return a text as lines of 80 columns, all but the first indented.

    A word that is longer than a line stays whole.

    Examples
    --------
    >>> print(folded("one " * 22))
    one one one one one one one one one one one one one one one one one one one one
      one one
    """
    return textwrap.fill(
        text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def command_line(words: Sequence[str], first: str) -> str:
    """Return a command as a shell takes it, over as many lines of 80 columns as it needs.

    Parameters
    ----------
    words : sequence of str
    first : str
        What the first line begins with; the others are indented as far.
    """
    lines = [first + words[0]]
    for word in map(shlex.quote, words[1:]):
        if len(lines[-1]) + len(word) + len("  \\") > WIDTH:
            lines.append(" " * len(first) + word)
        else:
            lines[-1] += f" {word}"
    return " \\\n".join(lines)


def cell(name: str, width: int) -> str:
    """Return a name padded to the first column of a table; a long one gets a line of its own.

    A name that is longer than a line gets several.

    Examples
    --------
    >>> cell("w2", 4), cell("norms", 4).splitlines()
    ('w2  ', ['norms', '    '])
    """
    return f"{name:<{width}}" if len(name) < width else f"{folded(name)}\n{'':<{width}}"


def named_lines(rows: Sequence[tuple[str, str]]) -> list[str]:
    """Return names and values as two columns of 80 characters.

    Long values continue below: after a comma or semicolon, or at a space if there is none.

    Examples
    --------
    >>> named_lines([("mesh", "2x2"), ("model", "")])
    ['mesh   2x2', 'model']
    """
    width = max(len(name) for name, _ in rows) + 2
    lines = []
    for name, value in rows:
        joined = re.sub(r"(?<![,;]) |(?<=\d,) (?=\d+\))", "\xa0", value)  # no break there
        parts = textwrap.wrap(joined, WIDTH - width, break_long_words=False, break_on_hyphens=False)
        cells = []
        for part in parts:
            plain = part.replace("\xa0", " ")
            cells += textwrap.wrap(
                plain, WIDTH - width, break_long_words=False, break_on_hyphens=False
            )
        lines += [f"{'' if n else name:<{width}}{cell}" for n, cell in enumerate(cells)]
        if not parts:
            lines.append(name)
    return lines


def print_text(text: str) -> None:
    """Print a text. A reader that closes the pipe early, as ``| head`` does, is not an error.

    Raises
    ------
    ConfigError
        If standard output cannot be written for another reason.
    """
    write_now(f"{text}\n")


def write_now(text: str) -> None:
    """Write a text to standard output as it is; see `print_text`."""
    if sys.stdout is None:  # Python was started with a closed descriptor
        return
    try:
        print(text, end="", flush=True)
    except OSError as error:
        _give_up(sys.stdout, error)


class Lasting:
    """Standard output that a reader may close early, as ``| head`` does: the rest is lost.

    So the command goes on, and its exit code says how it ended.

    Parameters
    ----------
    stream : TextIO
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text; see `print_text` for errors."""
        try:
            return self._stream.write(text)
        except OSError as error:
            _give_up(self._stream, error)
            return len(text)

    def flush(self) -> None:
        """Write what is kept back."""
        try:
            self._stream.flush()
        except OSError as error:
            _give_up(self._stream, error)

    def __getattr__(self, name: str) -> Any:
        """Return all else of the stream."""
        return getattr(self._stream, name)


def _give_up(stream: TextIO, error: OSError) -> None:
    """Drop what cannot be written; raise `ConfigError` unless the reader has closed the pipe."""
    # Remaining data in the stream would fail again when Python exits.
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    if not isinstance(error, BrokenPipeError):
        raise ConfigError(
            f"standard output cannot be written: {error.strerror}; send it elsewhere"
        ) from None


@functools.cache
def say_once(note: str) -> None:
    """Log a note about the user's files unless it was said before; ``--quiet`` leaves it out."""
    logging.getLogger(__name__).warning("galaxy_mpi: %s", note)
