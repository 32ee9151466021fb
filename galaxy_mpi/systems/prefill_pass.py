"""What is prefilled at once: the new tokens of one user, or of many short ones side by side."""

from dataclasses import dataclass

import numpy as np

from galaxy_mpi.arrays import Ints
from galaxy_mpi.kernels import QUERY_BLOCK

__all__ = ["PrefillPass", "PrefillUser", "causal_pairs", "padded_length", "query_chunks"]

SHORTEST, MIDDLE = 128, 1024


def padded_length(n_tokens: int) -> int:
    """Return to how many positions a prompt is padded.

    Examples
    --------
    >>> [padded_length(n) for n in (1, 128, 129, 1024, 1025, 4097, 131_072)]
    [128, 128, 1024, 1024, 2048, 8192, 131072]
    """
    if n_tokens <= SHORTEST:
        return SHORTEST
    return max(MIDDLE, 1 << (n_tokens - 1).bit_length())


@dataclass(frozen=True)
class PrefillUser:
    """The part of one user in a pass."""

    tokens: Ints
    """Tokens that are not cached yet, at least one."""
    start: int
    """Positions that are cached already: a multiple of 128."""
    column: int
    """The column that holds the user's cache."""
    blocks: Ints
    """Its cache blocks from position 0 on, enough for all its tokens."""


@dataclass(frozen=True)
class PrefillPass:
    """Users side by side, each padded to ``length`` rows; several only if nothing is cached."""

    users: tuple[PrefillUser | None, ...]
    """None: rows of nobody."""

    def __post_init__(self) -> None:
        assert any(self.users)
        assert len(self.users) == 1 or not any(user.start for user in self.users if user)

    @property
    def length(self) -> int:
        """Rows of each user."""
        return padded_length(max(len(user.tokens) for user in self.users if user))

    @property
    def start(self) -> int:
        """Cached positions of the one user, 0 if there are several."""
        return max(user.start for user in self.users if user)

    @property
    def parts(self) -> list[tuple[slice, PrefillUser]]:
        """The rows of each user."""
        length = self.length
        return [
            (slice(n * length, (n + 1) * length), user) for n, user in enumerate(self.users) if user
        ]

    @property
    def tokens(self) -> Ints:
        """Tokens of all rows, zeros where there is none."""
        tokens = np.zeros(len(self.users) * self.length, np.int64)
        for rows, user in self.parts:
            tokens[rows][: len(user.tokens)] = user.tokens
        return tokens

    @property
    def positions(self) -> Ints:
        """Positions of all rows."""
        return np.tile(np.arange(self.start, self.start + self.length), len(self.users))

    def is_distributed(self, n_columns: int) -> bool:
        """Return whether the columns share the queries (`query_chunks`).

        So it is for one user of more than 1,024 positions with nothing cached, where the padded
        length cuts into two chunks a column of whole blocks of 128.
        """
        chunks = 2 * n_columns * QUERY_BLOCK
        long = len(self.users) == 1 and self.start == 0 and self.length > MIDDLE
        return n_columns > 1 and long and self.length % chunks == 0


def query_chunks(length: int, n_columns: int, column: int) -> tuple[slice, slice]:
    """Return the queries of one column: chunk i of 2 C from the front and chunk i from the back.

    Later queries see more keys, so an early and a late chunk make equal work.

    Examples
    --------
    >>> query_chunks(2048, 4, 1)
    (slice(256, 512, None), slice(1536, 1792, None))
    """
    width, rest = divmod(length, 2 * n_columns)
    assert rest == 0
    last = 2 * n_columns - 1 - column
    chunks = (
        slice(column * width, (column + 1) * width),
        slice(last * width, (last + 1) * width),
    )
    assert causal_pairs(*chunks) * n_columns == causal_pairs(slice(0, length))
    return chunks


def causal_pairs(*queries: slice) -> int:
    """Return how many (query, key) pairs causal attention computes for ranges of queries.

    Examples
    --------
    >>> causal_pairs(slice(0, 4)), causal_pairs(slice(0, 1), slice(3, 4))
    (10, 5)
    """
    return sum((q.stop - q.start) * (q.start + q.stop + 1) // 2 for q in queries)
