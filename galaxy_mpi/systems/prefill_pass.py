"""One prefill pass: the new tokens of one user, or of several short prompts together.

The device works on padded sequences: a user has `padded_length` rows, and that length decides which
ops run. The host computes only the tiles of 32 rows that contain a token. Rows of padding are never
read, because a token attends only to earlier positions.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from galaxy_mpi.arrays import Ints
from galaxy_mpi.dtypes import TILE, padded
from galaxy_mpi.kernels import ROW_BLOCK

__all__ = [
    "PassShape",
    "PrefillPass",
    "PrefillUser",
    "causal_pairs",
    "padded_length",
    "query_chunks",
]

SHORT, MIDDLE = 128, 1024
"""Padded lengths; beyond these, powers of two."""

MINIMAL_MATMUL_FROM = 4096
"""From this many device rows on, prefill uses minimal matmuls."""


def padded_length(n_tokens: int) -> int:
    """Return the length that a prompt is padded to.

    Examples
    --------
    >>> [padded_length(n) for n in (1, 128, 129, 1024, 1025, 4097, 131_072)]
    [128, 128, 1024, 1024, 2048, 8192, 131072]
    """
    if n_tokens <= SHORT:
        return SHORT
    return max(MIDDLE, 1 << (n_tokens - 1).bit_length())


class PrefillUser(NamedTuple):
    """One user of a pass."""

    tokens: Ints
    """Tokens not in the cache yet; at least one."""
    start: int
    """Cached positions: a multiple of 128."""
    column: int
    """The column that holds the user's cache."""
    blocks: Ints
    """Its cache blocks, enough for all its tokens."""

    @property
    def n_rows(self) -> int:
        """Rows on the host: whole tiles."""
        return padded(len(self.tokens), TILE)


@dataclass(frozen=True)
class PassShape:
    """What the program of a pass depends on; passes with equal shapes share a program."""

    rows: tuple[int, ...]
    """Rows on the host per user."""
    columns: tuple[int, ...]
    """The column that holds each user's cache."""
    n_parts: int
    """Parts of the device's sequence, with or without a user."""
    length: int
    """Rows of each part on the device."""
    start: int = 0
    """Cached positions of the only user."""

    @classmethod
    def of_prompt(cls, n_tokens: int) -> "PassShape":
        """Return the shape of one prompt with nothing cached."""
        return cls((padded(n_tokens, TILE),), (0,), 1, padded_length(n_tokens))

    @property
    def n_users(self) -> int:
        """Users of the pass."""
        return len(self.rows)

    @property
    def n_rows(self) -> int:
        """Rows on the host."""
        return sum(self.rows)

    @property
    def device_rows(self) -> int:
        """Rows of the device's sequence."""
        return self.n_parts * self.length

    @property
    def on_device(self) -> tuple[int, int, int, int]:
        """What device time depends on; not the rows on the host, nor their columns."""
        return self.n_users, self.n_parts, self.length, self.start

    @property
    def is_long(self) -> bool:
        """Whether the sequence uses minimal matmuls and the gather fused with w2."""
        return self.device_rows >= MINIMAL_MATMUL_FROM

    @cached_property
    def parts(self) -> tuple[slice, ...]:
        """The host's rows of each user."""
        stops = np.cumsum(self.rows).tolist()
        return tuple(slice(stop - n, stop) for stop, n in zip(stops, self.rows, strict=True))

    @cached_property
    def row_blocks(self) -> tuple[slice, ...]:
        """Blocks of rows that are multiplied together: up to `ROW_BLOCK` of one user.

        A BLAS may add in another order when a matrix has another number of rows. The block of a
        row depends only on its own prompt, so its bits do not depend on other users or on how much
        of the prompt was cached.
        """
        return tuple(
            slice(start, min(start + ROW_BLOCK, rows.stop))
            for rows in self.parts
            for start in range(rows.start, rows.stop, ROW_BLOCK)
        )

    def is_distributed(self, n_columns: int) -> bool:
        """Return whether the columns share the queries (`query_chunks`).

        They do for a single user with more than 1,024 positions and nothing cached, if the padded
        length divides into two chunks per column of whole blocks of 128.
        """
        long = self.n_parts == 1 and self.start == 0 and self.length > MIDDLE
        return n_columns > 1 and long and self.length % (2 * n_columns * ROW_BLOCK) == 0


@dataclass(frozen=True)
class PrefillPass:
    """The users of a pass; several only if nothing is cached.

    Examples
    --------
    >>> tokens = np.arange(40)
    >>> users = tuple(PrefillUser(tokens, 0, column, np.array([0])) for column in (0, 3))
    >>> work = PrefillPass(users, n_parts=32)
    >>> work.shape.device_rows, work.shape.n_rows, [rows for rows, _ in work.parts]
    (4096, 128, [slice(0, 64, None), slice(64, 128, None)])
    """

    users: tuple[PrefillUser, ...]
    n_parts: int = 1
    """Parts of the device's sequence, with or without a user."""

    def __post_init__(self) -> None:
        assert 1 <= len(self.users) <= self.n_parts
        assert self.n_parts == 1 or not any(user.start for user in self.users)

    @cached_property
    def length(self) -> int:
        """Rows of each part on the device."""
        return padded_length(max(len(user.tokens) for user in self.users))

    @cached_property
    def shape(self) -> PassShape:
        """What the program of the pass depends on."""
        return PassShape(
            tuple(user.n_rows for user in self.users),
            tuple(user.column for user in self.users),
            self.n_parts,
            self.length,
            self.start,
        )

    @property
    def start(self) -> int:
        """Cached positions of the only user, 0 if there are several."""
        return max(user.start for user in self.users)

    @property
    def parts(self) -> list[tuple[slice, PrefillUser]]:
        """The host's rows of each user."""
        return list(zip(self.shape.parts, self.users, strict=True))

    def rows_in(self, window: slice) -> list[slice]:
        """Return the rows of tokens in a range of the host's rows, from its start on."""
        found = []
        for rows, user in self.parts:
            start = max(rows.start, window.start)
            stop = min(rows.start + len(user.tokens), window.stop)
            if start < stop:
                found.append(slice(start - window.start, stop - window.start))
        return found

    @property
    def last_rows(self) -> list[slice]:
        """The row of each user's last token among the last tiles of all users."""
        rows = [
            TILE * number + (len(user.tokens) - 1) % TILE for number, user in enumerate(self.users)
        ]
        return [slice(row, row + 1) for row in rows]

    @property
    def tokens(self) -> Ints:
        """Tokens of the host's rows; zeros for padding."""
        tokens = np.zeros(self.shape.n_rows, np.int64)
        for rows, user in self.parts:
            tokens[rows][: len(user.tokens)] = user.tokens
        return tokens

    @property
    def positions(self) -> Ints:
        """Positions of the host's rows."""
        return np.concatenate([user.start + np.arange(user.n_rows) for user in self.users])


def query_chunks(length: int, n_columns: int, column: int) -> Iterator[slice]:
    """Yield the queries of one column: chunk i of 2 C from the front and chunk i from the back.

    Later queries see more keys, so an early and a late chunk together are equal work.

    Examples
    --------
    >>> list(query_chunks(2048, 4, 1))
    [slice(256, 512, None), slice(1536, 1792, None)]
    """
    width, rest = divmod(length, 2 * n_columns)
    assert rest == 0
    chunks = [
        slice(number * width, (number + 1) * width)
        for number in (column, 2 * n_columns - 1 - column)
    ]
    assert n_columns * causal_pairs(chunks) == causal_pairs([slice(0, length)])
    yield from chunks


def causal_pairs(queries: Iterable[slice]) -> int:
    """Return how many (query, key) pairs causal attention computes for ranges of queries.

    Examples
    --------
    >>> causal_pairs([slice(0, 4)]), causal_pairs([slice(0, 1), slice(3, 4)])
    (10, 5)
    """
    return sum((q.stop - q.start) * (q.start + q.stop + 1) // 2 for q in queries)
