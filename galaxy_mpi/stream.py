"""Text as it comes: ``decode --stream``.

One user's text is continuous. Of several users a line is printed whenever one has some words more.
"""

from collections.abc import Callable, Sequence

from galaxy_mpi.engine.request import Request

__all__ = ["Stream"]

LINE = 60
"""Characters from which a user among several gets a line."""

_UNFINISHED = "\N{REPLACEMENT CHARACTER}"
"""What tokenizers make of the first bytes of a letter."""


class Stream:
    """Writes what users' tokens say, as they are generated.

    Parameters
    ----------
    write : callable
        Gets pieces of text in order.
    n_users : int
    """

    def __init__(self, write: Callable[[str], None], n_users: int) -> None:
        self._write, self._is_alone = write, n_users == 1
        self._n_shown: dict[int, int] = {}

    def generated(self, request: Request, decode: Callable[[Sequence[int]], str]) -> None:
        """Go on with a request that has a token more."""
        text = decode(request.generated)
        is_over = request.ended is not None
        if not is_over:
            text = text.rstrip(_UNFINISHED)
        if self._is_alone:
            before = self._n_shown.get(0)
            if before is None:
                self._write(f"[user 0] {decode(request.prompt)}|")
            self._n_shown[0] = max(len(text), before or 0)
            self._write(text[before or 0 :] + ("\n\n" if is_over else ""))
            return
        start = self._n_shown.get(request.number, 0)
        piece = text[start:]
        if is_over or len(piece) >= LINE:
            self._n_shown[request.number] = len(text)
            shown = piece.replace("\n", "\\n")
            end = f"  [{request.ended.value}]" if request.ended is not None else ""
            self._write(f"[user {request.number}] {shown}{end}\n")
