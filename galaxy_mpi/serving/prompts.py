"""Prompts of simulated requests: random tokens, the same in every run.

Prompts with the same prefix start with the same tokens, so that the prefix cache finds exactly
what they share.
"""

import zlib
from functools import lru_cache

import numpy as np

from galaxy_mpi.serving.arrivals import Size

__all__ = ["Prompts"]

OWN, SHARED = 3, 4
"""Streams of random numbers, in addition to those of `galaxy_mpi.serving.arrivals`."""


class Prompts:
    """Draws prompts.

    Parameters
    ----------
    vocab_size : int
    seed : int

    Examples
    --------
    >>> prompts = Prompts(1000, seed=0)
    >>> one, other = (prompts.tokens(n, Size(9, 1, "a", 7)) for n in (0, 1))
    >>> len(one), one[:7] == other[:7], one[7:] == other[7:]
    (9, True, False)
    """

    def __init__(self, vocab_size: int, seed: int) -> None:
        self._vocab_size, self._seed = vocab_size, seed
        self._shared = lru_cache(maxsize=256)(self._make_shared)

    def tokens(self, number: int, size: Size) -> list[int]:
        """Return the prompt of a request."""
        n_shared = min(size.prefix_tokens, size.input_tokens) if size.prefix else 0
        own = self._draw((self._seed, OWN, number), size.input_tokens - n_shared)
        return self._shared(size.prefix, n_shared) + own if n_shared else own

    def _make_shared(self, prefix: str, n_tokens: int) -> list[int]:
        return self._draw((self._seed, SHARED, zlib.crc32(prefix.encode())), n_tokens)

    def _draw(self, seed: tuple[int, ...], n_tokens: int) -> list[int]:
        # Doubles, because a shorter draw of these is always the beginning of a longer one.
        drawn = np.random.default_rng(seed).random(n_tokens) * self._vocab_size
        tokens: list[int] = drawn.astype(np.int64).tolist()
        return tokens
