"""Ring and line schedules: which chunk goes to whom in which round.

Integers only. Nothing here sends, allocates or charges time, so every schedule is tested without
MPI (tests/unit/test_topology.py); `galaxy_mpi.ccl.rows` and `stepwise` walk them.

A ring of four, reduce-scatter, seen from chip 0::

    round   send chunk   receive and add chunk
      0        3                 2
      1        2                 1
      2        1                 0      <- chip 0 now owns the sum of chunk 0

A line has no wrap-around. Chunks move in two lanes at once, up (to higher numbers) and down. The
chunks on each link in each round of a reduce-scatter on a line of four::

    round    up: 0->1  1->2  2->3     down: 1->0  2->1  3->2
      0           3     .     .              .     .     0
      1           2     3     .              .     0     1
      2           1     2     3              0     1     2

If the fabric routes, a chip writes straight to any other chip and needs no schedule:
`galaxy_mpi.ccl.direct`.

A chunk is summed in the order of its hops, so the order depends only on the chunk's owner and the
topology: all transports give the same bits.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

__all__ = ["TOPOLOGIES", "Hop", "Line", "Ring", "Round", "Topology", "routes"]

UP, DOWN = 0, 1


class Hop(NamedTuple):
    """One chunk over one link."""

    peer: int
    """The neighbour at the other end, as its index in the group."""
    chunk: int
    lane: int = UP
    """Direction of travel. Partial sums of the two lanes are kept apart."""


class Round(NamedTuple):
    """What one chip does in one round."""

    sends: tuple[Hop, ...]
    receives: tuple[Hop, ...]


class Topology(Protocol):
    """How the chips of a group are connected."""

    @property
    def name(self) -> str:
        """``ring`` or ``line``."""

    @property
    def size(self) -> int:
        """Number of chips."""

    def all_gather(self, i: int) -> list[Round]:
        """Return chip ``i``'s rounds; it starts with chunk ``i`` and ends with all."""

    def all_gather_both_ways(self, i: int) -> list[Round]:
        """Return the same with as few rounds as possible: chunks travel both ways."""

    def reduce_scatter(self, i: int) -> list[Round]:
        """Return chip ``i``'s rounds; it ends with the sum of chunk ``i``."""


@dataclass(frozen=True)
class Ring:
    """``size`` chips in a circle; chip i sends to i + 1 and receives from i - 1."""

    size: int
    name = "ring"

    def all_gather(self, i: int) -> list[Round]:
        """Pass on the chunk received last, starting with the chip's own."""
        return [self._round(i, i - s, i - s - 1) for s in range(self.size - 1)]

    def all_gather_both_ways(self, i: int) -> list[Round]:
        """Pass on the chunk received last in each lane, until the two meet."""
        n = self.size
        down = range((n - 1) // 2)

        def hop(step: int, chunk: int, lane: int) -> Hop:
            return Hop((i + step) % n, chunk % n, lane)

        return _both_lanes(
            [hop(1, i - s, UP) for s in range(n // 2)],
            [hop(-1, i + s, DOWN) if s in down else None for s in range(n // 2)],
            [hop(-1, i - s - 1, UP) for s in range(n // 2)],
            [hop(1, i + s + 1, DOWN) if s in down else None for s in range(n // 2)],
        )

    def reduce_scatter(self, i: int) -> list[Round]:
        """Add the chip's own term to the partial sum received last, and pass it on."""
        return [self._round(i, i - s - 1, i - s - 2) for s in range(self.size - 1)]

    def _round(self, i: int, sent: int, received: int) -> Round:
        n = self.size
        return Round((Hop((i + 1) % n, sent % n),), (Hop((i - 1) % n, received % n),))


@dataclass(frozen=True)
class Line:
    """``size`` chips in a row; chip i has the neighbours i - 1 and i + 1, where they exist."""

    size: int
    name = "line"

    def all_gather(self, i: int) -> list[Round]:
        """Pass on the chunk received last in each lane, starting with the chip's own in both."""
        up = [self._hop(i + 1, i - s, UP) for s in range(self.size - 1)]
        down = [self._hop(i - 1, i + s, DOWN) for s in range(self.size - 1)]
        from_below = [self._hop(i - 1, i - 1 - s, UP) for s in range(self.size - 1)]
        from_above = [self._hop(i + 1, i + 1 + s, DOWN) for s in range(self.size - 1)]
        return _both_lanes(up, down, from_below, from_above)

    def all_gather_both_ways(self, i: int) -> list[Round]:
        """Return `all_gather`, which is both ways."""
        return self.all_gather(i)

    def reduce_scatter(self, i: int) -> list[Round]:
        """Send partial sums towards their owners, the farthest owner first."""
        last = self.size - 1

        def upward(sender: int, s: int) -> Hop | None:
            chunk = last - (s - sender)
            return Hop(sender + 1, chunk, UP) if sender < chunk <= last else None

        def downward(sender: int, s: int) -> Hop | None:
            chunk = s - (last - sender)
            return Hop(sender - 1, chunk, DOWN) if 0 <= chunk < sender else None

        def received(hop: Hop | None, sender: int) -> Hop | None:
            return hop and Hop(sender, hop.chunk, hop.lane)

        rounds = range(last)
        return _both_lanes(
            [upward(i, s) for s in rounds],
            [downward(i, s) for s in rounds],
            [received(upward(i - 1, s), i - 1) if i > 0 else None for s in rounds],
            [received(downward(i + 1, s), i + 1) if i < last else None for s in rounds],
        )

    def _hop(self, peer: int, chunk: int, lane: int) -> Hop | None:
        inside = 0 <= peer < self.size and 0 <= chunk < self.size
        return Hop(peer, chunk, lane) if inside else None


def _both_lanes(
    up: list[Hop | None] | list[Hop],
    down: list[Hop | None],
    from_below: list[Hop | None] | list[Hop],
    from_above: list[Hop | None],
) -> list[Round]:
    """Return the rounds of sends up and down, and of receives from below and above."""
    return [
        Round(
            tuple(hop for hop in (up[s], down[s]) if hop),
            tuple(hop for hop in (from_below[s], from_above[s]) if hop),
        )
        for s in range(len(up))
    ]


def routes(topology: Topology, owner: int) -> list[tuple[int, ...]]:
    """Return the order in which members add their terms of a chunk, one tuple per lane.

    The owner is left out: it adds its own term at the end, lane by lane.

    Examples
    --------
    >>> routes(Ring(4), 1), routes(Line(4), 1)
    ([(2, 3, 0)], [(0,), (3, 2)])
    """
    added: dict[int, list[int]] = {}
    schedules = [topology.reduce_scatter(i) for i in range(topology.size)]
    for number in range(len(schedules[0])):
        for member, rounds in enumerate(schedules):
            for hop in rounds[number].sends:
                if hop.chunk == owner:
                    added.setdefault(hop.lane, []).append(member)
    return [tuple(added[lane]) for lane in sorted(added)]


TOPOLOGIES: dict[str, type[Ring] | type[Line]] = {"ring": Ring, "line": Line}
