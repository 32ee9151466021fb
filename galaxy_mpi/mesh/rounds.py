"""Memory layout and properties of rounds of boxes, and of rows that are passed on."""

from collections.abc import Mapping, Sequence
from functools import cache

from galaxy_mpi.arrays import Bytes
from galaxy_mpi.mesh.plane import GroupRounds, Label, Round
from galaxy_mpi.mesh.waits import LINE_BYTES

__all__ = [
    "InRounds",
    "Labelled",
    "RelayRows",
    "begins_at_once",
    "box",
    "box_bytes",
    "numbered",
    "places_of",
    "spreads",
    "text_of_rounds",
]


class InRounds:
    """The crossings of all rounds as one, because nothing is computed between them."""

    def __init__(self, label: Label, rounds: Sequence[Round]) -> None:
        self.label, self.rounds = label, tuple(rounds)

    def complete(self, mine: Sequence[int]) -> None:
        """Complete all."""
        for crossing in self.rounds:
            crossing.complete(mine)

    def __call__(self) -> None:
        """Cross them in order."""
        for cross in self.rounds:
            cross()


class Labelled:
    """Which members have sent a chip a label in a collective: only their first boxes have one."""

    def __init__(self) -> None:
        self._ways: set[object] = set()

    def first(self, way: str, peer: object, label: Bytes) -> Bytes | None:
        """Return the place of a label, and None from the second time on."""
        has_been = (way, peer) in self._ways
        self._ways.add((way, peer))
        return None if has_been else label


class RelayRows:
    """Layout of a relay in a slot: the rows, then a label for every time a row is passed on.

    Parameters
    ----------
    size, n_bytes : int
        Rows, and bytes of a row.
    n_labels : int
        How many times a row is passed on.
    """

    def __init__(self, size: int, n_bytes: int, n_labels: int) -> None:
        self._size, self._row_bytes = size, n_bytes
        self._labels = _padded(size * n_bytes)
        self.n_bytes = self._labels + LINE_BYTES * n_labels

    def rows(self, slot: Bytes) -> Bytes:
        """Return the rows, (size, n_bytes)."""
        rows: Bytes = slot[: self._size * self._row_bytes].reshape(self._size, self._row_bytes)
        return rows

    def label(self, slot: Bytes, place: int) -> Bytes:
        """Return the place of a label."""
        begin = self._labels + LINE_BYTES * place
        return slot[begin : begin + LINE_BYTES]


def numbered(peers: Sequence[int]) -> list[tuple[int, int]]:
    """Return (k, peer) for each message, the k-th of this round with that peer."""
    seen: dict[int, int] = {}
    pairs = []
    for peer in peers:
        k = seen.get(peer, 0)
        seen[peer] = k + 1
        pairs.append((k, peer))
    return pairs


@cache
def spreads(rounds: GroupRounds) -> bool:
    """Return whether a member that has passed all rounds knows that all have entered the first.

    Only then may the slots be used in turn; otherwise a barrier must follow.
    """
    known = [{member} for member in range(len(rounds))]
    for number in range(len(rounds[0])):
        known = [
            known[member].union(*(known[p] for p in rounds[member][number].receives))
            for member in range(len(rounds))
        ]
    return all(len(members) == len(rounds) for members in known)


@cache
def begins_at_once(rounds: GroupRounds) -> bool:
    """Return whether members exchange with each neighbour from the first round on, until they end.

    Only then may a relay be one call, see `galaxy_mpi.mesh.relays`.
    """
    for of_member in rounds:
        for way in zip(*of_member, strict=True):
            for peer in {peer for peers in way for peer in peers}:
                numbers = [number for number, peers in enumerate(way) if peer in peers]
                if numbers != list(range(len(numbers))):
                    return False
    return True


@cache
def places_of(rounds: GroupRounds) -> Mapping[tuple[int, int, int, int], int]:
    """Number the boxes of a group: by (round, sender, receiver, k-th between the two)."""
    places: dict[tuple[int, int, int, int], int] = {}
    for receiver, of_receiver in enumerate(rounds):
        for number, peers in enumerate(of_receiver):
            for k, sender in numbered(peers.receives):
                places[number, sender, receiver, k] = len(places)
    return places


@cache
def text_of_rounds(rounds: GroupRounds) -> str:
    """Return the rounds as text, which members compare."""
    return str(rounds)


def box_bytes(n_bytes: int) -> int:
    """Return the size of a box with its label."""
    return LINE_BYTES + _padded(n_bytes)


def box(memory: Bytes, place: int, n_bytes: int) -> tuple[Bytes, Bytes]:
    """Return (data, label) of a box in a group's slot, by its place; the label is in front."""
    stride = box_bytes(n_bytes)
    piece = memory[place * stride : (place + 1) * stride]
    return piece[LINE_BYTES : LINE_BYTES + n_bytes], piece[:LINE_BYTES]


def _padded(n_bytes: int) -> int:
    return -(-n_bytes // 64) * 64
