"""Relays as one call: all rounds of rows that are passed on, because nothing is computed between.

With many ranks on a core, the cost of an exchange is mostly each rank's processor time, not the
number of rounds. So notices that have arrived together are passed on together, and requests are
started and awaited without Python calls in between.
"""

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from galaxy_mpi.errors import CollectiveError
from galaxy_mpi.mesh.barrier import MOST_POSTS
from galaxy_mpi.mesh.collective import Collective
from galaxy_mpi.mesh.waits import Waits

if TYPE_CHECKING:
    from galaxy_mpi.mesh.message_crossings import BoxMessages, In
    from galaxy_mpi.mesh.message_requests import MessageRequests
    from galaxy_mpi.mesh.signals import Posts, Received, Sent, SignalCrossing, Signals, Takes

__all__ = ["MessageRelay", "SignalRelay"]

_DIGESTS = (1 << 64) - 1


class SignalRelay:
    """Notices that rows are ready, between the processes of a host.

    Every process gets notices from a neighbour (or two) and passes on as many. A round is passed on
    when that of all neighbours has arrived.
    """

    def __init__(
        self, waits: Waits, collective: Collective, signals: "Signals", of: "list[SignalCrossing]"
    ) -> None:
        self.label, self._waits, self._rounds, self._signals = collective.label, waits, of, signals
        self._arguments: tuple[Any, ...] = ()
        self._is_ring = False

    def complete(self, mine: Sequence[int]) -> None:
        """Collect the labels, once every chip of this process has bound."""
        outs: dict[Posts, tuple[list[int], tuple[Sent, ...]]] = {}
        ins: dict[Takes, tuple[list[int], tuple[Received, ...]]] = {}
        for number, crossing in enumerate(self._rounds):
            crossing.complete(mine)
            for post, sends in crossing.to:
                outs.setdefault(post, ([], sends))[0].append(number)
            for take, receives in crossing.come:
                ins.setdefault(take, ([], receives))[0].append(number)
        self._arguments = (
            self,
            self._signals,
            tuple((post, len(numbers), sends) for post, (numbers, sends) in outs.items()),
            tuple((take, len(numbers), receives) for take, (numbers, receives) in ins.items()),
            len(self._rounds),
            self._waits.text,
            self._rounds[0].text,
        )
        self._is_ring = [len(numbers) for numbers, _ in (*outs.values(), *ins.values())] == [
            len(self._rounds)
        ] * 2

    def timed(self, spent_s: list[float]) -> tuple[Callable[..., None], tuple[object, ...]]:
        """Return a call that crosses, and adds its seconds to the only element of ``spent_s``."""
        if not self._is_ring:
            return _relay_signals, (*self._arguments, spent_s)
        relay, signals, ((post, _, sends),), ((take, _, receives),), *others = self._arguments
        ends = (post, post.numbers, post.post, sends), (take, take.numbers, take.take, receives)
        waits = self._waits, self._waits.count
        return _relay_one_way, (relay, signals.held, *ends[0], *ends[1], *waits, *others, spent_s)

    def __call__(self) -> None:
        """Return when all rows have been passed on."""
        cross, arguments = self.timed([0.0])
        cross(*arguments)

    def wait(self, take: "Takes") -> None:
        """Wait for a notice that has not been posted yet, and record the wait."""
        self._rounds[0].sleep(take, self)

    def held(self, post: "Posts", n_rounds: int) -> None:
        """Note rounds that have not been posted, before `check`, which posts them."""
        if n_rounds:
            self._signals.tell(post, n_rounds)

    def check(self, take: "Takes", receives: "tuple[Received, ...]") -> None:
        """Raise an error if the label in front of the first row differs."""
        self._rounds[0].check(take, receives)

    def missing(self) -> list[int]:
        """Return the processes whose notices have not arrived."""
        return self._rounds[0].missing()


def _relay_signals(
    relay: SignalRelay,
    signals: "Signals",
    outs: "tuple[tuple[Posts, int, tuple[Sent, ...]], ...]",
    ins: "tuple[tuple[Takes, int, tuple[Received, ...]], ...]",
    n_rounds: int,
    line: memoryview,
    text: bytes,
    spent_s: list[float],
) -> None:
    """Pass on all rows. All it needs are arguments, as in `galaxy_mpi.mesh.crossing`."""
    began = time.perf_counter()
    # A process that finds a different label reports what this process is in.
    line[:] = text
    for post, n, sends in outs:
        post.n += n
        for place, digest, text_place, label in sends:
            text_place[:] = label
            place[0] = digest + post.n & _DIGESTS
        signals.tell(post)
    done = 0
    while done < n_rounds:
        came = n_rounds - done
        for take, n, receives in ins:
            if n <= done:
                continue
            if not take.n_known:
                if not take.take(False):
                    relay.wait(take)
                take.read()
            if take.n_known < came and take.n_known < n - done:
                came = take.n_known
            if not done:
                take.n += n
                for place, digest, *_ in receives:
                    if place[0] != digest + take.n & _DIGESTS:
                        relay.check(take, receives)
        for take, n, _ in ins:
            if n > done:
                take.n_known -= min(came, n - done)
        for post, n, _ in outs:
            more = min(done + came + 1, n) - done - 1
            if more > 0:
                signals.tell(post, more)
        done += came
    signals.flush()
    spent_s[0] += time.perf_counter() - began


def _relay_one_way(
    relay: SignalRelay,
    held: "list[Posts]",
    post: "Posts",
    out_numbers: memoryview,
    give: Callable[[], None],
    sends: "tuple[Sent, ...]",
    take: "Takes",
    in_numbers: memoryview,
    get: Callable[..., bool],
    receives: "tuple[Received, ...]",
    waits: Waits,
    count: memoryview,
    n_rounds: int,
    line: memoryview,
    text: bytes,
    spent_s: list[float],
) -> None:
    """Pass on all rows of a ring: the same with one neighbour on either side, in less time."""
    began = time.perf_counter()
    assert not held, "every collective posts its rounds at its end"
    line[:] = text
    n = post.n = post.n + n_rounds
    for place, digest, text_place, label in sends:
        text_place[:] = label
        place[0] = digest + n & _DIGESTS
    n_held, left = 1, n_rounds
    while left:
        known = take.n_known
        if not known:
            if not get(False):
                if n_held:
                    number = post.next
                    out_numbers[number] = n_held
                    post.next = (number + 1) % MOST_POSTS
                    n_held = 0
                    give()
                waits.crossing = relay
                n = count[0]
                count[0] = n + 1
                get()
                count[0] = n + 2
            number = take.next
            known = in_numbers[number]
            take.next = (number + 1) % MOST_POSTS
        if left == n_rounds:
            n = take.n = take.n + n_rounds
            for place, digest, *_ in receives:
                if place[0] != digest + n & _DIGESTS:
                    relay.held(post, n_held)
                    relay.check(take, receives)
        if known < left:
            take.n_known = 0
            left -= known
        else:  # the last row is not passed on
            take.n_known = known - left
            known, left = left - 1, 0
        n_held += known
    if n_held:
        number = post.next
        out_numbers[number] = n_held
        post.next = (number + 1) % MOST_POSTS
        give()
    spent_s[0] += time.perf_counter() - began


class MessageRelay:
    """Rows as messages. The label is in front of the first that comes from a neighbour."""

    def __init__(self, waits: Waits, collective: Collective, rounds: "list[BoxMessages]") -> None:
        self.label, self._waits, self._rounds = collective.label, waits, rounds

    def complete(self, mine: Sequence[int]) -> None:
        """Create the requests, once every chip of this process has bound."""
        for crossing in self._rounds:
            crossing.complete(mine)

    def timed(self, spent_s: list[float]) -> tuple[Callable[..., None], tuple[object, ...]]:
        """Return a call that crosses, and adds its seconds to the only element of ``spent_s``."""
        first, waits = self._rounds[0], self._waits
        requests = first.requests
        if requests is None:
            return first.timed(spent_s)
        labels, line = (first.out, first.labels), (waits.text, first.text)
        return _relay_messages, (self, requests, *labels, waits, *line, waits.count, spent_s)

    def __call__(self) -> None:
        """Return when all rows have arrived."""
        cross, arguments = self.timed([0.0])
        cross(*arguments)

    def check(self) -> None:
        """Raise an error for the first label that differs."""
        self._rounds[0].check()

    def missing(self) -> list[int]:
        """Return the neighbours, of which one or more have not sent all rows."""
        return sorted({rank for crossing in self._rounds for rank in crossing.missing()})


def _relay_messages(
    relay: MessageRelay,
    requests: "MessageRequests",
    out: "list[tuple[memoryview, bytes]]",
    labels: "list[In]",
    waits: Waits,
    line: memoryview,
    text: bytes,
    count: memoryview,
    spent_s: list[float],
) -> None:
    """Pass on all rows, and then look at the labels of the first."""
    began = time.perf_counter()
    for place, label in out:
        place[:] = label
    waits.crossing = relay
    line[:] = text
    n = count[0]
    count[0] = n + 1
    has_fitted = requests.run()
    count[0] = n + 2
    for digest, right, _ in labels:
        if digest[0] != right:
            relay.check()
    if not has_fitted:
        raise CollectiveError(f"a message of {relay.label.text} arrived damaged")
    spent_s[0] += time.perf_counter() - began
