"""What tells one model's weights from another's: their content, not when or where it was written.

Models of up to 64 MiB are read whole. Of larger ones a sample of every tensor is: weights that were
trained further or quantised otherwise differ everywhere; a single value that was changed by hand in
the middle of a large tensor is not seen.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

__all__ = ["Piece", "fingerprint"]

Piece = tuple[Path, int, int]
"""A file, where something begins in it, and its bytes."""

_WHOLE_BYTES = 2**26
"""Up to here all is read: a tenth of a second."""

_BLOCK_BYTES = 2**12
_SMALL_BYTES = 2**16
"""Pieces that are read whole in any case: norms and biases."""

_BLOCKS_EACH = 6


def fingerprint(pieces: Iterable[Piece], what: str) -> str:
    """Return a name that two models share only if their samples are the same.

    Parameters
    ----------
    pieces : iterable of Piece
        Tensors, in an order that depends on nothing but the model.
    what : str
        Whatever else makes them differ: names, shapes, formats.

    Raises
    ------
    OSError
        If a file cannot be read.
    """
    pieces = list(pieces)
    import hashlib  # here, not above: only rank 0 reads checkpoints for this

    digest = hashlib.sha256(what.encode("utf-8", "surrogatepass"))
    is_small = sum(n_bytes for _, _, n_bytes in pieces) <= _WHOLE_BYTES
    for path, start, n_bytes in pieces:
        digest.update(n_bytes.to_bytes(8, "little"))
        with path.open("rb") as file:
            for offset, n in _samples(n_bytes, whole=is_small):
                file.seek(start + offset)
                digest.update(file.read(n))
    return digest.hexdigest()[:32]


def _samples(n_bytes: int, *, whole: bool) -> Iterator[tuple[int, int]]:
    """Yield offset and length of what is read of a piece: its ends, and places between."""
    if whole or n_bytes <= _SMALL_BYTES:
        yield 0, n_bytes
        return
    last = n_bytes - _BLOCK_BYTES
    for number in range(_BLOCKS_EACH):
        yield last * number // (_BLOCKS_EACH - 1), _BLOCK_BYTES
