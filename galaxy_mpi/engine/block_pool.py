"""The cache blocks of one column: in use, free, or holding a known prefix.

This is bookkeeping only. Every rank keeps the pools of all columns and allocates the same blocks,
so nothing is sent; a chip's `KVCache` holds the bytes of its own column.

A block full of prompt tokens is remembered by these and all earlier tokens. It is kept when its
last user leaves, so that a later prompt with the same prefix can reuse it. Unused blocks are
reallocated when no free one is left, least recently used first.
"""

import heapq
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

__all__ = ["BlockPool", "prefix_keys"]


def prefix_keys(tokens: Sequence[int], page_size: int) -> list[bytes]:
    """Return a key for each full block of a prompt, from its tokens and all before them.

    Examples
    --------
    >>> a, b = prefix_keys([1, 2, 3, 4, 5], 2), prefix_keys([1, 2, 9, 4], 2)
    >>> len(a), a[0] == b[0], a[1] == b[1]
    (2, True, False)
    """
    if len(tokens) < page_size:
        return []
    import hashlib  # imported here: it loads OpenSSL, and most runs have short prompts

    digest, keys = hashlib.sha256(), []
    packed, page_bytes = np.array(tokens, "<i8").tobytes(), 8 * page_size
    for start in range(0, len(packed) - page_bytes + 1, page_bytes):
        digest.update(packed[start : start + page_bytes])
        keys.append(digest.digest())
    return keys


class BlockPool:
    """Blocks of one column.

    Parameters
    ----------
    n_blocks : int

    Attributes
    ----------
    peak : int
        Maximum number of blocks in use at the same time.

    Examples
    --------
    >>> pool = BlockPool(4)
    >>> pool.allocate(), pool.allocate(), pool.n_available
    (0, 1, 2)
    >>> pool.remember(0, b"It is a truth"); pool.release([0, 1]); pool.n_available
    4
    >>> pool.find([b"It is a truth"])
    [0]
    """

    def __init__(self, n_blocks: int) -> None:
        self.n_blocks = n_blocks
        self.peak = 0
        self._free = list(range(n_blocks))  # a heap: low numbers first, to touch little memory
        self._n_users: dict[int, int] = {}
        self._block_of: dict[bytes, int] = {}
        self._key_of: dict[int, bytes] = {}
        self._unused: OrderedDict[int, None] = OrderedDict()

    @property
    def n_available(self) -> int:
        """Number of unused blocks."""
        return len(self._free) + len(self._unused)

    @property
    def n_used(self) -> int:
        """Number of blocks in use."""
        return len(self._n_users)

    def allocate(self) -> int:
        """Return a block for one user. One must be available, see `n_available`."""
        if self._free:
            block = heapq.heappop(self._free)
        else:
            block, _ = self._unused.popitem(last=False)
            del self._block_of[self._key_of.pop(block)]
        self._n_users[block] = 1
        self.peak = max(self.peak, len(self._n_users))
        return block

    def find(self, keys: Sequence[bytes]) -> list[int]:
        """Return the blocks of the longest known prefix of ``keys``."""
        blocks = []
        for key in keys:
            if key not in self._block_of:
                break
            blocks.append(self._block_of[key])
        return blocks

    def share(self, blocks: Sequence[int]) -> None:
        """Add a user to each of ``blocks``, which `find` returned."""
        for block in blocks:
            self._unused.pop(block, None)
            self._n_users[block] = self._n_users.get(block, 0) + 1
        self.peak = max(self.peak, len(self._n_users))

    def remember(self, block: int, key: bytes) -> None:
        """Remember the content of a used block; of several with the same key, the first counts."""
        if key not in self._block_of:
            self._block_of[key] = block
            self._key_of[block] = key

    def release(self, blocks: Sequence[int]) -> None:
        """Remove a user from each of ``blocks``."""
        for block in reversed(blocks):  # the end of a prefix is reallocated before its beginning
            self._n_users[block] -= 1
            if self._n_users[block]:
                continue
            del self._n_users[block]
            if block in self._key_of:
                self._unused[block] = None
            else:
                heapq.heappush(self._free, block)
