"""Validate a GGUF header before the gguf library reads it: no count may exceed the file.

The library trusts every count, and would loop over, or allocate, 2**56 values of a broken file.
This module keeps nothing and only checks that the header is consistent.

References
----------
.. [1] ggml, docs/gguf.md, versions 2 and 3.
"""

import struct

from galaxy_mpi.arrays import Bytes

__all__ = ["walk_header"]

_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of the number types."""

_STRING, _ARRAY = 8, 9

_MOST_DIMS = 4


def walk_header(content: Bytes) -> None:
    """Return if every field and tensor description is inside the file.

    Raises
    ------
    ValueError
        With what is wrong, and where.
    """
    _Walk(memoryview(content.data)).header()


class _Walk:
    def __init__(self, content: memoryview) -> None:
        self._content, self._at = content, 0

    def header(self) -> None:
        if bytes(self._content[:4]) != b"GGUF":
            raise ValueError("it does not begin with GGUF")
        self._at = 4
        version, n_tensors, n_fields = self._number("I"), self._number("Q"), self._number("Q")
        if version not in (2, 3):
            raise ValueError(f"version {version} is not known; known: 2, 3")
        names = set()
        for _ in range(n_fields):
            names.add(self._string("a field's name"))
            self._value(self._number("I"))
        if len(names) < n_fields:
            raise ValueError("a field appears twice")
        tensors = set()
        for _ in range(n_tensors):
            tensors.add(self._string("a tensor's name"))
            n_dims = self._number("I")
            if not 1 <= n_dims <= _MOST_DIMS:
                raise ValueError(f"a tensor has {n_dims} dims")
            n_values = 1
            for _ in range(n_dims):
                n_values *= self._number("Q")
            if n_values > 16 * len(self._content):
                raise ValueError(f"a tensor of {n_values} values is larger than the file")
            self._number("I")
            self._number("Q")
        if len(tensors) < n_tensors:
            raise ValueError("a tensor appears twice")

    def _value(self, kind: int) -> None:
        if kind == _STRING:
            self._string("a field")
        elif kind == _ARRAY:
            of, n = self._number("I"), self._number("Q")
            if of == _STRING:
                for _ in range(n):
                    self._string("an array")
            elif of in _SIZES:
                self._skip(n * _SIZES[of], "an array")
            else:
                raise ValueError(f"an array of type {of} at byte {self._at}")
        elif kind in _SIZES:
            self._skip(_SIZES[kind], "a number")
        else:
            raise ValueError(f"a field of type {kind} at byte {self._at}")

    def _string(self, what: str) -> bytes:
        n_bytes = self._number("Q")
        start = self._at
        self._skip(n_bytes, what)
        return bytes(self._content[start : self._at])

    def _number(self, code: str) -> int:
        start = self._at
        self._skip(struct.calcsize(code), "a number")
        (number,) = struct.unpack_from(f"<{code}", self._content, start)
        return int(number)

    def _skip(self, n_bytes: int, what: str) -> None:
        if n_bytes > len(self._content) - self._at:
            raise ValueError(f"{what} at byte {self._at} goes past the end")
        self._at += n_bytes
