"""A request on its way through a run, and the cache limits that apply to it."""

from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

__all__ = ["CacheLimits", "EndReason", "Request"]


class EndReason(Enum):
    """Why a user's text ended."""

    LENGTH = "length"
    END_OF_TEXT = "end_of_text"
    CACHE_FULL = "cache_full"
    REFUSED = "refused"
    CANCELLED = "cancelled"


class CacheLimits(NamedTuple):
    """How large the cache is."""

    page_size: int
    """Positions per block."""
    n_blocks: int
    """Blocks per column."""
    max_seq_len: int
    """Positions that the model supports."""

    @property
    def n_positions(self) -> int:
        """Maximum positions of one user."""
        return min(self.max_seq_len, self.n_blocks * self.page_size)

    def blocks_for(self, n_positions: int) -> int:
        """Return the number of blocks for so many positions."""
        return -(-n_positions // self.page_size)

    def room(self, n_tokens: int) -> int:
        """Return how many new tokens fit behind a prompt; the last one needs no position."""
        return self.n_positions - n_tokens + 1

    def refusal(self, number: int, n_tokens: int) -> str | None:
        """Return why a prompt can never fit, or None if it can."""
        if n_tokens > self.max_seq_len:
            return (
                f"user {number} rejected: its prompt of {n_tokens} tokens exceeds the "
                f"model's {self.max_seq_len} positions; shorten the prompt"
            )
        needed = self.blocks_for(n_tokens)
        if needed <= self.n_blocks:
            return None
        return (
            f"user {number} rejected: its prompt of {n_tokens} tokens needs {needed} cache blocks "
            f"of {self.page_size} positions, a column has {self.n_blocks}; "
            f"raise --cache-blocks or shorten the prompt"
        )


@dataclass(slots=True)
class Request:
    """One request."""

    number: int
    prompt: list[int]
    keys: list[bytes]
    """See `prefix_keys`; empty without prefix caching."""
    max_new_tokens: int
    generated: list[int] = field(default_factory=list)
    ended: EndReason | None = None
    place: int = -1
    blocks: list[int] = field(default_factory=list)
    n_cached: int = 0
    """Prompt tokens found in the prefix cache."""

    @property
    def position(self) -> int:
        """Position of the last generated token."""
        return len(self.prompt) + len(self.generated) - 1

    @property
    def is_long_enough(self) -> bool:
        """Whether it has generated all requested tokens."""
        return len(self.generated) >= self.max_new_tokens

    def drop_tokens(self) -> None:
        """Free the tokens of a request that has ended, to bound memory in long simulations."""
        self.prompt, self.keys, self.generated = [], [], []
