"""Arrays of one chip's programs: allocated at bind time, reused when no later op reads them.

A program runs in the order in which it was bound, so an array that no later op reads can be given
to a later op, and identical layers end up using the same few arrays. The programs of a chip run one
at a time and share a pool, so all arrays of a program are free for the next one.
"""

from bisect import bisect_left, insort
from math import prod
from sys import getrefcount

import numpy as np

from galaxy_mpi.arrays import F32, Array, Bytes

__all__ = ["ArrayPool"]

_ALIGNMENT = 64

_UNUSED_REFERENCES = 2
"""References to the memory of a piece, counted by a call that has one itself."""

_MOST_WASTE = 4
"""A free piece is used if it is at most this many times as large as requested."""


class ArrayPool:
    """Storage that is handed out and returned while programs are bound.

    Attributes
    ----------
    n_bytes : int
        Bytes of all storage.
    """

    def __init__(self) -> None:
        self._free: list[tuple[int, int]] = []  # (size, address), ascending
        self._pieces: dict[int, Bytes] = {}
        self._out: set[int] = set()
        self.n_bytes = 0

    def take(self, *shape: int) -> F32:
        """Return a float32 array with undefined content."""
        values: F32 = self.take_bytes(4 * prod(shape)).view(np.float32).reshape(shape)
        return values

    def take_bytes(self, n_bytes: int) -> Bytes:
        """Return so many bytes, aligned to a cache line."""
        size = max(_ALIGNMENT, -(-n_bytes // _ALIGNMENT) * _ALIGNMENT)
        place = bisect_left(self._free, (size, 0))
        if place < len(self._free) and self._free[place][0] <= _MOST_WASTE * size:
            _, address = self._free.pop(place)
        else:
            raw = np.zeros(size + _ALIGNMENT, np.uint8)
            start = -_address(raw) % _ALIGNMENT
            piece = raw[start : start + size]
            address = _address(piece)
            self._pieces[address] = piece
            self.n_bytes += size
        self._out.add(address)
        return self._pieces[address][:n_bytes]

    def owner(self, array: object) -> int | None:
        """Return the piece of storage that an array is a view of, None if it is not of the pool."""
        if not isinstance(array, np.ndarray):
            return None
        root = array
        while isinstance(root.base, np.ndarray):
            root = root.base
        start = _address(root)
        address = start + -start % _ALIGNMENT
        return address if address in self._out else None

    def give_back(self, owner: int) -> Bytes:
        """Take storage back; no call bound from now on reads its content."""
        self._out.discard(owner)
        piece = self._pieces[owner]
        insort(self._free, (len(piece), owner))
        return piece

    def trim(self) -> None:
        """Free the storage that no program refers to; call it while none is being bound."""
        for _, address in self._free:
            # Views refer to the array that owns the memory; only the piece itself may be left.
            if getrefcount(self._pieces[address].base) <= _UNUSED_REFERENCES:
                self.n_bytes -= len(self._pieces.pop(address))
        self._free = [(size, address) for size, address in self._free if address in self._pieces]

    def give_back_all(self) -> None:
        """Take everything back, because the program is bound."""
        for owner in list(self._out):
            self.give_back(owner)


def _address(array: Array) -> int:
    address: int = array.__array_interface__["data"][0]
    return address
