"""One collective of the groups of a team, and the labels by which its members recognise it."""

import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from galaxy_mpi.arrays import Bytes
from galaxy_mpi.mesh.plane import Label, Round, TeamCrossing, slot_of
from galaxy_mpi.mesh.team_memory import TeamMemory
from galaxy_mpi.mesh.waits import LINE_BYTES, padded, text_of

if TYPE_CHECKING:
    from galaxy_mpi.mesh.mesh import Mesh
    from galaxy_mpi.mesh.message_requests import MessageRequests

__all__ = ["Collective", "line_of", "mismatch"]

_DIGEST_BITS = 63
"""One bit less than stored, so that a number can be added."""


class Collective:
    """One collective of the groups of a team that have a chip in this process.

    Attributes
    ----------
    lines : dict of int to bytes
        By number of the group in the team: the label that all members must agree on, `LINE_BYTES`.
    bound : list of int
        The chips of this process that have bound.
    crossings : sequence of TeamCrossing
        What is crossed: a table, each round of boxes, or all rounds of a relay as one. Created with
        the first chip, complete when all have bound.
    rounds : sequence of Round
        Of boxes and relays, which chips add their messages to.
    requests : list
        Released with the program.
    """

    def __init__(self, number: int, label: Label, n_bytes: int, memory: TeamMemory) -> None:
        self.number, self.slot, self.label, self.n_bytes = number, slot_of(number), label, n_bytes
        self.memory = memory
        self.lines: dict[int, bytes] = {}
        self.bound: list[int] = []
        self.crossings: Sequence[TeamCrossing] = []
        self.rounds: Sequence[Round] = []
        self.requests: list[MessageRequests] = []
        self._data: dict[int, Bytes] = {}
        self._ways: set[tuple[str, int]] = set()

    def is_first(self, way: str, rank: int) -> bool:
        """Return whether no completed round sends to (or receives from) a rank."""
        has_been = (way, rank) in self._ways
        self._ways.add((way, rank))
        return not has_been

    def data(self, group: int, n_bytes: int) -> Bytes:
        """Return the memory of a group: the same for all its chips, even if the slot grows."""
        if group not in self._data:
            self._data[group] = self.memory.slot(group, self.slot, n_bytes)
        return self._data[group]


def line_of(label: Label, facts: str) -> bytes:
    """Return a label as bytes: digest, text.

    Parameters
    ----------
    label : Label
    facts : str
        Further facts that planes must agree on.
    """
    spread = zlib.crc32(facts.encode()) * 0x9E3779B97F4A7C15
    digest = (label.digest ^ spread) % (1 << _DIGEST_BITS)
    return (digest.to_bytes(8, "little") + padded(label.text)).ljust(LINE_BYTES, b"\0")


def mismatch(mesh: "Mesh", chip: int, line: bytes, other: int, other_line: bytes) -> str:
    """Return the message for two chips whose labels differ."""
    texts = [text_of(one[8:]) for one in (line, other_line)]
    why = (
        ""
        if texts[0] != texts[1]
        else "; at a different place in the program, or with a different size"
    )
    return (
        f"chip {mesh.coord(chip)} is in {texts[0]}, "
        f"but chip {mesh.coord(other)} is in {texts[1]}{why}"
    )
