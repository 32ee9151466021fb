"""A fingerprint of a model's weights, from their content, not from time or place.

Models up to 64 MiB are read completely. Of larger ones, every tensor is sampled: weights after more
training or with another quantisation differ everywhere. A single edited value in a large tensor is
not detected.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

__all__ = ["Piece", "fingerprint"]

Piece = tuple[Path, int, int]
"""A file, an offset in it, and a number of bytes."""

_WHOLE_BYTES = 2**26
"""Up to this size everything is read, in a tenth of a second."""

_BLOCK_BYTES = 2**12
_SMALL_BYTES = 2**16
"""Pieces up to this size are always read completely: norms and biases."""

_BLOCKS_EACH = 6


def fingerprint(pieces: Iterable[Piece], what: str) -> str:
    """Return a name that two models share only if their samples are equal.

    Parameters
    ----------
    pieces : iterable of Piece
        Tensors, in an order that depends only on the model.
    what : str
        Other properties that distinguish models: names, shapes, formats.

    Raises
    ------
    OSError
        If a file cannot be read.
    """
    pieces = list(pieces)
    import hashlib  # imported here: only rank 0 computes fingerprints

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
    """Yield offset and length of the samples of a piece: its ends, and places between."""
    if whole or n_bytes <= _SMALL_BYTES:
        yield 0, n_bytes
        return
    last = n_bytes - _BLOCK_BYTES
    for number in range(_BLOCKS_EACH):
        yield last * number // (_BLOCKS_EACH - 1), _BLOCK_BYTES
