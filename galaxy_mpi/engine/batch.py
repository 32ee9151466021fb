"""The users of a run: who is at which position, what is fed next, who is done.

Every chip keeps its own copy and advances it with the same tokens, so nothing is sent.
"""

from enum import Enum

import numpy as np

from galaxy_mpi.arrays import Ints

__all__ = ["Batch", "EndReason"]

IDLE = -1
"""Position of a user place that nobody holds (any more)."""


class EndReason(Enum):
    """Why a user's text ended."""

    LENGTH = "length"
    END_OF_TEXT = "end_of_text"
    CACHE_FULL = "cache_full"


class Batch:
    """Prompts and what has been generated from them.

    Parameters
    ----------
    prompts : list of list of int
        Token ids of each user's prompt, at least one each.
    n_places : int
        User places; those beyond the prompts stay idle.
    max_new_tokens : int
    n_positions : int
        Room of a user's cache.
    eos_tokens : tuple of int
        Tokens that end a text; they are kept as its last token.

    Examples
    --------
    >>> batch = Batch([[5, 6]], n_places=2, max_new_tokens=1, n_positions=9, eos_tokens=())
    >>> batch.inputs()
    (array([5, 0]), array([ 0, -1]))
    >>> batch.sampling_users()
    array([], dtype=int64)
    >>> batch.advance({}); batch.sampling_users()
    array([0])
    >>> batch.advance({0: 7}); batch.generated, batch.is_done
    ([[7]], True)
    """

    def __init__(
        self,
        prompts: list[list[int]],
        *,
        n_places: int,
        max_new_tokens: int,
        n_positions: int,
        eos_tokens: tuple[int, ...],
    ) -> None:
        self.prompts = prompts
        self.generated: list[list[int]] = [[] for _ in prompts]
        self.ended: list[EndReason | None] = [None] * len(prompts)
        self._max_new_tokens, self._n_positions = max_new_tokens, n_positions
        self._eos_tokens = frozenset(eos_tokens)
        self._tokens = np.zeros(n_places, np.int64)
        self._positions = np.full(n_places, IDLE, np.int64)
        for user, prompt in enumerate(prompts):
            self._tokens[user], self._positions[user] = prompt[0], 0

    @property
    def is_done(self) -> bool:
        """Whether every user has ended."""
        return all(reason is not None for reason in self.ended)

    @property
    def n_steps_at_most(self) -> int:
        """Steps until the last user ends, if none ends early."""
        longest = max((len(prompt) for prompt in self.prompts), default=0)
        return longest - 1 + self._max_new_tokens

    def inputs(self) -> tuple[Ints, Ints]:
        """Return (tokens, positions) of all places; -1 is the position of an idle one."""
        return self._tokens, self._positions

    def sampling_users(self) -> Ints:
        """Return the users whose next token this step decides: those past their prompt."""
        return np.array(
            [
                user
                for user, prompt in enumerate(self.prompts)
                if self.ended[user] is None and self._positions[user] + 1 >= len(prompt)
            ],
            np.int64,
        )

    def advance(self, sampled: dict[int, int]) -> None:
        """Move every user on by one position.

        Parameters
        ----------
        sampled : dict of int to int
            The new token of each of `sampling_users`.
        """
        for user, prompt in enumerate(self.prompts):
            if self.ended[user] is not None:
                continue
            position = int(self._positions[user]) + 1
            self._positions[user] = position
            if user in sampled:
                self.generated[user].append(sampled[user])
                self.ended[user] = self._end_of(user, sampled[user], position)
                self._tokens[user] = sampled[user]
            else:
                self._tokens[user] = prompt[position]
            if self.ended[user] is not None:
                self._positions[user], self._tokens[user] = IDLE, 0

    def _end_of(self, user: int, token: int, position: int) -> EndReason | None:
        if token in self._eos_tokens:
            return EndReason.END_OF_TEXT
        if len(self.generated[user]) >= self._max_new_tokens:
            return EndReason.LENGTH
        if position >= self._n_positions:
            return EndReason.CACHE_FULL
        return None
