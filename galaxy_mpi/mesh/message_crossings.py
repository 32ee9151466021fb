"""Crossings whose data goes as messages, for `galaxy_mpi.mesh.message_plane`."""

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from galaxy_mpi.arrays import Bytes
from galaxy_mpi.errors import CollectiveError
from galaxy_mpi.mesh.collective import Collective
from galaxy_mpi.mesh.message_requests import Message, MessageRequests, place_of
from galaxy_mpi.mesh.plane import TEXT_BYTES
from galaxy_mpi.mesh.waits import LINE_BYTES, Waits

if TYPE_CHECKING:
    from galaxy_mpi.mesh.message_plane import MessagePlane

__all__ = ["SENT_LINE_BYTES", "BoxMessages", "In", "RowMessages"]

In = tuple[memoryview, int, tuple[int, int, Bytes]]
"""Of a label: where its digest arrives, the right one; sender, receiver, and where it arrives."""

SENT_LINE_BYTES = 8 + TEXT_BYTES
"""Of a label in front of a message: digest and text."""


class RowMessages:
    """The messages of a table's crossing."""

    def __init__(self, plane: "MessagePlane", collective: Collective, *, in_parts: bool) -> None:
        self.label, self._plane, self._collective = collective.label, plane, collective
        self._in_parts = in_parts
        self._waits, self._count, self._tell = plane.waits, plane.waits.count, plane.waits.text
        self._before = self._behind = self._text = b""

    def complete(self, mine: Sequence[int]) -> None:
        """Create the requests, once every chip of this process has bound."""
        plane, collective = self._plane, self._collective
        messages, received, kept = plane.row_messages(collective, in_parts=self._in_parts)
        self._requests = plane.use(collective, [messages], kept)
        self._lines: memoryview = kept[0].data.cast("B")
        before, behind = [], []
        for chip in collective.memory.team.chips:
            line = collective.lines[plane.group_of(chip)][:SENT_LINE_BYTES]
            before.append(line if chip in mine else b"")
            behind.append(line if chip in mine or chip in received else b"")
        # Labels that are not received stay empty.
        self._before = b"".join(line.ljust(LINE_BYTES, b"\0") for line in before)
        self._behind = b"".join(line.ljust(LINE_BYTES, b"\0") for line in behind)
        self._text = next(iter(collective.lines.values()))[8:SENT_LINE_BYTES]

    def __call__(self) -> None:
        """Return when all rows have arrived."""
        count, requests, lines = self._count, self._requests, self._lines
        lines[:] = self._before
        self._waits.crossing = self
        self._tell[:] = self._text
        count[0] += 1
        requests.start(0)
        fitted = requests.finish(0)
        count[0] += 1
        if not fitted or lines.tobytes() != self._behind:
            self._complain(lines.tobytes())

    def missing(self) -> list[int]:
        """Return the processes whose rows have not arrived."""
        wrong = self._wrong(self._lines.tobytes())
        return sorted({self._plane.owner(c) for c, _, line in wrong if not line.strip(b"\0")})

    def _wrong(self, lines: bytes) -> list[tuple[int, bytes, bytes]]:
        """Return (chip, expected line, line) of the chips whose line differs."""
        wrong = []
        for place, chip in enumerate(self._collective.memory.team.chips):
            span = slice(place * LINE_BYTES, (place + 1) * LINE_BYTES)
            if lines[span] != self._behind[span]:
                wrong.append((chip, self._behind[span], lines[span]))
        return wrong

    def _complain(self, lines: bytes) -> None:
        for chip, right, line in self._wrong(lines):
            raise self._plane.disagreement(chip, right, line)
        raise CollectiveError(f"a message of {self.label.text} arrived damaged")


class BoxMessages:
    """The messages of a round of boxes."""

    def __init__(
        self,
        plane: "MessagePlane",
        collective: Collective,
        number: int,
        rounds: "list[BoxMessages]",
    ) -> None:
        self.label, self._plane, self._collective = collective.label, plane, collective
        self._number, self._rounds = number, rounds
        self._waits, self._count, self._tell = plane.waits, plane.waits.count, plane.waits.text
        self.messages: list[Message] = []
        self._kept: list[Bytes] = []
        self._sends: list[tuple[int, memoryview]] = []
        """Each chip that sends, with the place of the label."""
        self._receives: list[tuple[int, int, Bytes]] = []
        """Sender, receiver and box."""
        self.out: list[tuple[memoryview, bytes]] = []
        self.labels: list[In] = []
        self.text = b""
        self.requests: MessageRequests | None = None

    def send(self, rank: int, chip: int, head: Bytes | None, data: Bytes, tag: int) -> None:
        """Add a box of a chip of this process to a chip of process ``rank``."""
        self._add(rank, head, data, tag, is_send=True)
        if head is not None:
            self._sends.append((chip, head.data))

    def receive(
        self, rank: int, sender: int, chip: int, head: Bytes | None, data: Bytes, tag: int
    ) -> None:
        """Add a box of a chip of process ``rank`` to one of this process."""
        self._add(rank, head, data, tag, is_send=False)
        if head is not None:
            self._receives.append((sender, chip, head))

    def _add(self, rank: int, head: Bytes | None, data: Bytes, tag: int, *, is_send: bool) -> None:
        pieces = [place_of(data)]
        if head is not None:
            pieces.insert(0, place_of(head))
            (begin, n_head), (next_begin, n_data) = pieces
            if begin + n_head == next_begin:
                pieces = [(begin, n_head + n_data)]
            self._kept.append(head)
        self.messages.append(Message(rank, tag, is_send, tuple(pieces)))
        self._kept.append(data)

    def complete(self, mine: Sequence[int]) -> None:
        """Create the requests of all rounds, once every chip of this process has bound."""
        plane, lines = self._plane, self._collective.lines
        if self._number == 0:
            messages = [of_round.messages for of_round in self._rounds]
            kept = [of_round._kept for of_round in self._rounds]
            if any(messages):
                self.requests = plane.use(self._collective, messages, kept)
        else:
            self.requests = self._rounds[0].requests
        self.text = next(iter(lines.values()))[8:SENT_LINE_BYTES]
        self.out = [(place, lines[plane.group_of(chip)]) for chip, place in self._sends]
        self.labels = [
            (
                piece.data[:8].cast("Q"),
                int.from_bytes(lines[plane.group_of(chip)][:8], "little"),
                (sender, chip, piece),
            )
            for sender, chip, piece in self._receives
        ]

    def start(self) -> None:
        """Send the boxes of the round."""
        for place, line in self.out:
            place[:] = line
        if self.requests is not None:
            self.requests.start(self._number)

    def finish(self) -> None:
        """Return when the boxes of the others have arrived."""
        if self.requests is None:
            return
        count = self._count
        self._waits.crossing = self
        self._tell[:] = self.text
        count[0] += 1
        fitted = self.requests.finish(self._number)
        count[0] += 1
        self.check()
        if not fitted:
            raise CollectiveError(f"a message of {self.label.text} arrived damaged")

    def timed(self, spent_s: list[float]) -> tuple[Callable[..., None], tuple[object, ...]]:
        """Return a call that crosses, and adds its seconds to the only element of ``spent_s``."""
        requests, waits = self.requests, self._waits
        if requests is None:
            return _nothing, ()
        labels, line = (self.out, self.labels), (waits.text, self.text, waits.count)
        calls = requests.calls(self._number)
        return _cross_boxes, (self, requests, *calls, *labels, waits, *line, spent_s)

    def __call__(self) -> None:
        """Return when all boxes of the round have arrived."""
        cross, arguments = self.timed([0.0])
        cross(*arguments)

    def check(self) -> None:
        """Raise an error for the first label that differs."""
        for digest, right, where in self.labels:
            if digest[0] != right:
                self._complain(*where)

    def missing(self) -> list[int]:
        """Return the processes whose boxes have not arrived."""
        return sorted({message.rank for message in self.messages if not message.is_send})

    def _complain(self, sender: int, chip: int, piece: Bytes) -> None:
        line = self._collective.lines[self._plane.group_of(chip)]
        raise self._plane.disagreement(sender, line, bytes(piece[:LINE_BYTES]))


def _nothing() -> None:
    """Cross a round of chips that are all of this process."""


def _cross_boxes(
    crossing: BoxMessages,
    requests: MessageRequests,
    start: Callable[[], object],
    wait: Callable[[], object],
    errors: Any,
    out: list[tuple[memoryview, bytes]],
    labels: list[In],
    waits: Waits,
    line: memoryview,
    text: bytes,
    count: memoryview,
    spent_s: list[float],
) -> None:
    """Cross a round. All it needs are arguments, as in `galaxy_mpi.mesh.crossing`."""
    began = time.perf_counter()
    for place, label in out:
        place[:] = label
    requests.n_started += 1
    start()
    waits.crossing = crossing
    line[:] = text
    count[0] += 1
    has_fitted = True
    try:
        wait()
        requests.n_finished += 1
    except errors:
        has_fitted = False
    count[0] += 1
    if labels:
        crossing.check()
    if not has_fitted:
        raise CollectiveError(f"a message of {crossing.label.text} arrived damaged")
    spent_s[0] += time.perf_counter() - began
