"""Continuous batching: assigns requests to places, decides what to prefill, and ends requests.

The scheduler is deterministic and replicated on every rank, so it needs no communication.

A waiting request starts when it gets a place (`galaxy_mpi.engine.places`). Running requests are
never preempted; a request that does not fit waits. Requests start in order.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from galaxy_mpi.engine.block_pool import BlockPool, prefix_keys
from galaxy_mpi.engine.places import Places
from galaxy_mpi.engine.request import CacheLimits, EndReason, Request
from galaxy_mpi.systems import PageTable, PrefillPass, PrefillUser
from galaxy_mpi.systems.prefill_pass import SHORT

__all__ = ["Scheduler"]

IDLE = -1
"""Position of an empty place."""

BATCH_FROM = 16
"""From this many short prompts on, a pass prefills them together (tt-metal, generator.py)."""


class Scheduler:
    """Requests, places and cache blocks of a run.

    Parameters
    ----------
    prompts : list of list of int
        Token ids of each prompt, at least one each.
    n_places : int
        Users of a decode batch, a multiple of ``n_columns``.
    n_columns : int
        Columns of the mesh: place p belongs to column ``p // (n_places // n_columns)``.
    limits : CacheLimits
    max_new_tokens : int
    eos_tokens : tuple of int
        Tokens that end a text; they are kept as the last token.
    prefix_caching : bool
    refused : callable, optional
        Called with a one-line message for each rejected request.
    bad : mapping of int to str, optional
        Requests to reject in any case, with their message.

    Examples
    --------
    >>> from galaxy_mpi.engine.request import CacheLimits
    >>> limits = CacheLimits(page_size=64, n_blocks=8, max_seq_len=512)
    >>> scheduler = Scheduler([[5, 6]], 4, 2, limits, max_new_tokens=2, eos_tokens=())
    >>> (request,) = scheduler.next_prefill(); request.place, request.blocks
    (0, [0])
    >>> scheduler.next_prefill()
    []
    >>> scheduler.advance({0: 7}); scheduler.tokens, scheduler.positions
    (array([7, 0, 0, 0]), array([ 2, -1, -1, -1]))
    >>> scheduler.advance({0: 8}); scheduler.requests[0].generated, scheduler.is_done
    ([7, 8], True)
    """

    def __init__(
        self,
        prompts: list[list[int]],
        n_places: int,
        n_columns: int,
        limits: CacheLimits,
        *,
        max_new_tokens: int,
        eos_tokens: tuple[int, ...],
        prefix_caching: bool = True,
        refused: Callable[[str], None] = lambda line: None,
        bad: Mapping[int, str] | None = None,
    ) -> None:
        self._limits, self._max_new_tokens = limits, max_new_tokens
        self._n_positions, self._page_size = limits.n_positions, limits.page_size
        self._prefix_caching, self._refused = prefix_caching, refused
        self._eos_tokens = frozenset(eos_tokens)
        self.places = Places(n_places, n_columns, limits)
        self.requests: list[Request] = []
        self._waiting: deque[Request] = deque()
        self._active: dict[int, Request] = {}
        self.tokens = np.zeros(n_places, np.int64)
        self.positions = np.full(n_places, IDLE, np.int64)
        for number, prompt in enumerate(prompts):
            self.submit(prompt, bad=(bad or {}).get(number))

    def submit(
        self, prompt: list[int], max_new_tokens: int | None = None, bad: str | None = None
    ) -> Request:
        """Append a request to the queue, or reject it if it can never fit.

        Parameters
        ----------
        prompt : list of int
            Token ids, at least one.
        max_new_tokens : int, optional
            By default that of the run.
        bad : str, optional
            Why the prompt cannot be used, if so.

        Returns
        -------
        Request
            Requests are numbered from 0.
        """
        number, limits = len(self.requests), self._limits
        keys = prefix_keys(prompt, limits.page_size) if self._prefix_caching else []
        most = self._max_new_tokens if max_new_tokens is None else max_new_tokens
        request = Request(number, prompt, keys, most)
        self.requests.append(request)
        reason = bad or limits.refusal(number, len(prompt))
        if reason is None:
            self._waiting.append(request)
        else:
            request.ended = EndReason.REFUSED
            self._refused(reason)
        return request

    def cancel(self, number: int) -> None:
        """End a request that waits or holds a place; has no effect if it has ended already."""
        request = self.requests[number]
        if request.ended is not None:
            return
        request.ended = EndReason.CANCELLED
        if request.place < 0:
            self._waiting.remove(request)
        else:
            self._leave(request)

    @property
    def n_steps_left(self) -> int | None:
        """Decode steps until all users have ended, or fewer; None while requests wait."""
        if self._waiting:
            return None
        left = (
            min(request.max_new_tokens, self._limits.room(len(request.prompt)))
            - len(request.generated)
            for request in self._active.values()
        )
        return max(left, default=0)

    @property
    def pools(self) -> list[BlockPool]:
        """The cache blocks of each column."""
        return self.places.pools

    @property
    def is_done(self) -> bool:
        """Whether every request has ended."""
        return not self._waiting and not self._active

    @property
    def active(self) -> list[Request]:
        """The requests that hold a place, by place."""
        return [self._active[place] for place in sorted(self._active)]

    @property
    def n_active(self) -> int:
        """How many requests hold a place."""
        return len(self._active)

    @property
    def n_waiting(self) -> int:
        """How many requests wait for a place."""
        return len(self._waiting)

    @property
    def n_done(self) -> int:
        """How many requests have ended."""
        return sum(request.ended is not None for request in self.requests)

    def next_prefill(self) -> list[Request]:
        """Assign places to the requests to prefill next, in one pass; empty if none can start.

        16 or more short ones start together; otherwise one starts.
        """
        n_short = 0
        for request in self._waiting:
            if len(request.prompt) > SHORT or n_short == self.places.n_free:
                break
            n_short += 1
        seated: list[Request] = []
        wanted = n_short if n_short >= BATCH_FROM else 1
        while len(seated) < wanted and self._waiting and self.places.take(self._waiting[0]):
            request = self._waiting.popleft()
            self._active[request.place] = request
            seated.append(request)
        if 1 < len(seated) < BATCH_FROM:  # not enough memory for more: one at a time
            for request in reversed(seated[1:]):
                self._leave(request)
                self._waiting.appendleft(request)
            del seated[1:]
        return seated

    def prefill_pass(self, requests: Sequence[Request]) -> PrefillPass:
        """Return the pass for requests that `next_prefill` returned."""
        users = tuple(
            PrefillUser(
                np.array(request.prompt[request.n_cached :], np.int64),
                request.n_cached,
                self.column(request.place),
                np.array(request.blocks, np.int64),
            )
            for request in requests
        )
        return PrefillPass(users, n_parts=1 if len(users) == 1 else len(self.tokens))

    def column(self, place: int) -> int:
        """Return the column whose chips hold the cache of ``place``."""
        return self.places.column(place)

    def page_table(self, column: int) -> PageTable:
        """Return the page table of a column."""
        return self.places.page_table(column, self.positions)

    def longest_positions(self) -> list[int]:
        """Return the position of the longest user in each column; -1 for no user."""
        longest: list[int] = self.positions.reshape(len(self.pools), -1).max(axis=1).tolist()
        return longest

    def advance(self, sampled: dict[int, int]) -> None:
        """Append the next token of each request, by number; end those that are complete."""
        for number, token in sampled.items():
            request = self.requests[number]
            if not request.generated:
                self.places.remember_prompt(request)
            request.generated.append(token)
            position = request.position
            is_last = position >= self._n_positions
            if is_last or token in self._eos_tokens or request.is_long_enough:
                request.ended = self._end_of(request, token)
            if request.ended is None:
                self.tokens[request.place] = token
                self.positions[request.place] = position
                if position >= len(request.blocks) * self._page_size:
                    self.places.grow(request, position + 1)
            else:
                self._leave(request)

    def _leave(self, request: Request) -> None:
        """Free a request's place and blocks."""
        place = request.place
        self.places.leave(request)
        del self._active[place]
        self.positions[place], self.tokens[place] = IDLE, 0

    def _end_of(self, request: Request, token: int) -> EndReason:
        """Return why a request ends; the first reason counts."""
        if token in self._eos_tokens:
            return EndReason.END_OF_TEXT
        return EndReason.LENGTH if request.is_long_enough else EndReason.CACHE_FULL
