"""Standard error of mpirun without its own notice of an abort, if a rank has said why.

Open MPI prints up to nine lines after a rank has ended the run. They name neither the cause nor
what to do, and they hide the line of ours that does. Everything else passes unchanged.
"""

import re
from collections.abc import Callable

__all__ = ["Notices"]

_RULE = re.compile(rb"-{60,}\s*")
"""Begins and ends a notice."""

_OF_AN_ABORT = (
    b"MPI_ABORT was invoked on rank",
    b"has exited due to process rank",
    b"exited with non-zero status",
    b"returned a non-zero exit code",
    b"non-zero exit status",
)

_OF_AN_INTERRUPT = (b"noticed that process rank", b"abort is in progress")

_OURS = b"galaxy_mpi: "

_NO_CAUSE = re.compile(rb"asked to end| is left out")
"""In lines of ours that do not say why a run ends."""

_MOST_LINES = 40
"""A notice with more is none."""


class Notices:
    """A filter of a stream of bytes.

    Parameters
    ----------
    write : callable
        Called with what passes.

    Attributes
    ----------
    is_interrupted : bool
        Whether the user has ended the run, so that all notices of its end are expected.
    has_cause : bool
        Whether a rank has said why the run ends.
    """

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write
        self._line = b""
        self._n_written = 0
        self._block: list[bytes] = []
        self._held: list[bytes] = []
        self.has_cause = False
        self.is_interrupted = False

    def feed(self, chunk: bytes) -> None:
        """Take what was printed, in pieces of any size."""
        for piece in re.findall(rb"[^\r\n]*[\r\n]|[^\r\n]+", chunk):
            self._line += piece
            if piece.endswith((b"\r", b"\n")):
                self._end_line()
            elif not (self._block or set(self._line) <= set(b"-\0")):
                self._pass()  # the beginning of a line, such as a prompt or progress

    def close(self) -> None:
        """Write what is left, at the end of the stream."""
        if self._line.strip(b"\0"):
            self._end_line()
        self._emit(b"".join(self._block))
        if not (self.has_cause or self.is_interrupted):
            self._emit(b"".join(self._held))
        self._block, self._held = [], []

    def _pass(self) -> None:
        self._emit(self._line[self._n_written :])
        self._n_written = len(self._line)

    def _end_line(self) -> None:
        line, self._line = self._line, b""
        n_written, self._n_written = self._n_written, 0
        if self._block:
            self._block.append(line)
            if _RULE.fullmatch(line):
                self._judge()
            elif len(self._block) > _MOST_LINES:
                self._emit(b"".join(self._block))
                self._block = []
        elif not n_written and _RULE.fullmatch(line.lstrip(b"\0")):
            self._block = [line]
        else:
            self.has_cause = self.has_cause or (
                line.startswith(_OURS) and not _NO_CAUSE.search(line)
            )
            self._emit(line[n_written:])

    def _judge(self) -> None:
        notice, self._block = b"".join(self._block), []
        known = (*_OF_AN_ABORT, *_OF_AN_INTERRUPT) if self.is_interrupted else _OF_AN_ABORT
        if any(words in notice for words in known):
            self._held.append(notice)
        else:
            self._emit(notice)

    def _emit(self, text: bytes) -> None:
        if text:
            self._write(text)
