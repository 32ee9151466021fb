"""Tables and boxes over real ranks, with one chip a rank and with several, on one host and on more.

Values are integers that say who wrote them, when, so whatever is read too early, too late or from
the wrong place shows.
"""

import random
import time

import numpy as np
import pytest
from mpi4py import MPI

from galaxy_mpi.errors import CollectiveError, MeshError
from galaxy_mpi.mesh import Axis, Mesh
from galaxy_mpi.mesh.local_transport import LocalTransport
from galaxy_mpi.mesh.mpi import MpiTransport
from galaxy_mpi.mesh.plane import Label, RoundPeers
from galaxy_mpi.mesh.planes import HOSTS_VARIABLE

SIZE = MPI.COMM_WORLD.size

pytestmark = pytest.mark.mpi(min_size=2)

KINDS = {"shared": ("shared", 1), "mpi": ("mpi", 1), "two hosts": ("auto", 2)}

# Meshes by ranks, with the chips that each plays; the last are no rectangles of chips.
MESHES = {
    2: [("1x2", 1), ("2x1", 1), ("2x2", 2), ("4x2", 4), ("2x3", 3)],
    4: [("2x2", 1), ("1x4", 1), ("2x4", 2), ("4x2", 2), ("3x4", 3)],
    8: [("8x1", 1), ("2x4", 1), ("4x4", 2)],
    32: [("8x4", 1)],
}


def transport_of(kind, monkeypatch, mesh, chips_per_rank):
    transport, hosts = KINDS[kind]
    monkeypatch.setenv(HOSTS_VARIABLE, str(hosts))
    return MpiTransport.connect(mesh, kind=transport, chips_per_rank=chips_per_rank)


def cases():
    return [(Mesh.parse(text), n) for text, n in MESHES.get(SIZE, [(f"1x{SIZE}", 1)])]


def ring(size):
    """Everybody to the next, twice in a round, and so on until all have all."""
    return tuple(
        tuple(RoundPeers(((m + 1) % size,) * 2, ((m - 1) % size,) * 2) for _ in range(size - 1))
        for m in range(size)
    )


def chain(size):
    """One round, from each to the next, and not around: nobody hears of those before two."""
    return tuple(
        (RoundPeers((m + 1,) if m + 1 < size else (), (m - 1,) if m else ()),) for m in range(size)
    )


class Game:
    """A program of tables and boxes on the chips of this process, with random pauses."""

    def __init__(self, transport, axis, items):
        self.mesh, self.axis, self.chips = transport.mesh, axis, transport.chips
        self.plane, self.items = transport.plane(axis), items
        self.chance = random.Random(transport.rank)
        size = self.plane.size
        self.plane.begin()
        self.bound = []
        # Chip by chip, or item by item: both orders are allowed.
        for number, (kind, n_bytes) in enumerate(items):
            label = Label(number, f"{kind} of {n_bytes} bytes")
            if kind in ("rows", "parts"):
                made = [
                    self.plane.table(c, label, n_bytes * size, in_parts=kind == "parts")
                    for c in self.chips
                ]
            else:
                rounds = (ring if kind == "ring" else chain)(size)
                made = [self.plane.boxes(c, label, n_bytes, rounds) for c in self.chips]
            self.bound.append(made)
        self.ended = self.plane.end()
        self.closing = self.plane.closing()

    def cross(self, crossings):
        if self.chance.random() < 0.02:
            time.sleep(self.chance.random() * 0.002)
        for crossing in {id(c): c for c in crossings}.values():
            crossing()
        if self.chance.random() < 0.02:
            time.sleep(self.chance.random() * 0.002)

    def play(self, turn):
        for number, ((kind, _), made) in enumerate(zip(self.items, self.bound, strict=True)):
            if kind in ("rows", "parts"):
                self.tables(made, turn, number, in_parts=kind == "parts")
            else:
                self.boxes(made, turn, number, kind)
        for crossing in self.closing:
            crossing()

    def tables(self, tables, turn, number, *, in_parts):
        for chip, table in zip(self.chips, tables, strict=True):
            table.mine.view(np.int64)[:] = 10**6 * chip + 100 * turn + number
        self.cross([table.crossing for table in tables])
        for chip, table in zip(self.chips, tables, strict=True):
            group, me = self.mesh.group(chip, self.axis), self.mesh.index(chip, self.axis)
            values = table.rows.view(np.int64)
            if in_parts:
                values = values.reshape(len(group), len(group), -1)[:, me]
            expected = [10**6 * member + 100 * turn + number for member in group]
            assert (values == np.array(expected)[:, None]).all()

    def boxes(self, made, turn, number, kind):
        size = self.plane.size
        held = {chip: chip for chip in self.chips}
        for n in range(len(made[0].crossings)):
            for chip, boxes in zip(self.chips, made, strict=True):
                for k, box in enumerate(boxes.sends[n]):
                    box.view(np.int64)[:] = 10**6 * held[chip] + 100 * turn + 10 * number + k
            self.cross([boxes.crossings[n] for boxes in made])
            for chip, boxes in zip(self.chips, made, strict=True):
                group, me = self.mesh.group(chip, self.axis), self.mesh.index(chip, self.axis)
                from_whom = group[(me - 1 - n) % size]
                assert len(boxes.receives[n]) == (2 if kind == "ring" else int(me > 0))
                for k, box in enumerate(boxes.receives[n]):
                    expected = 10**6 * from_whom + 100 * turn + 10 * number + k
                    assert (box.view(np.int64) == expected).all()
                held[chip] = from_whom


PROGRAMS = [
    [("rows", 64)],
    [("parts", 8), ("rows", 4096), ("ring", 800)],
    [("ring", 8), ("rows", 8)],
    [("chain", 24)],
    [("parts", 30_000), ("chain", 8), ("chain", 16), ("ring", 2000), ("parts", 8)],
]


@pytest.mark.parametrize("kind", KINDS)
def test_programs_that_follow_each_other_read_what_was_written(kind, monkeypatch):
    turns = 60 if SIZE <= 8 else 6
    for mesh, chips_per_rank in cases():
        with transport_of(kind, monkeypatch, mesh, chips_per_rank) as transport:
            assert transport.n_ranks == SIZE
            for axis in Axis:
                if mesh.size(axis) > 1:
                    games = [Game(transport, axis, items) for items in PROGRAMS]
                    chance = random.Random(7)  # the same on all ranks
                    for turn in range(turns):
                        games[chance.randrange(len(games))].play(turn)


def test_slots_are_used_thousands_of_times(monkeypatch):
    mesh, chips_per_rank = cases()[0]
    with transport_of("shared", monkeypatch, mesh, chips_per_rank) as transport:
        axis = max(Axis, key=mesh.size)
        game = Game(transport, axis, [("rows", 8), ("ring", 8), ("parts", 8)])
        for turn in range(1500 if SIZE <= 8 else 50):
            game.play(turn)


def test_one_process_reads_the_same():
    for mesh, _ in cases():
        for axis in Axis:
            if mesh.size(axis) > 1:
                for items in PROGRAMS:
                    game = Game(LocalTransport(mesh), axis, items)
                    game.play(3)
                    game.play(4)


def test_programs_share_requests_and_give_them_back(monkeypatch):
    mesh, chips_per_rank = cases()[0]
    with transport_of("mpi", monkeypatch, mesh, chips_per_rank) as transport:
        axis = max(Axis, key=mesh.size)
        cache = transport.plane(axis)._cache
        games = [Game(transport, axis, [("rows", 64), ("ring", 64)] * 20) for _ in range(2)]
        # Rows in slots 2 and 1, boxes in slot 0.
        assert len(cache) == 3
        games[0].plane.release(games[0].ended)
        games[1].play(1)
        games[1].plane.release(games[1].ended)
        assert len(cache) == 0
        Game(transport, axis, [("rows", 64)]).play(2)
        assert len(cache) == 1


def crossed(transport, axis, what, label, n_bytes):
    """Cross the first collective of a program of two."""
    plane = transport.plane(axis)
    plane.begin()
    (chip,) = transport.chips
    if what == "table":
        crossings = [plane.table(chip, label, n_bytes, in_parts=False).crossing]
    else:
        crossings = plane.boxes(chip, label, n_bytes, ring(plane.size)).crossings
    plane.table(chip, Label(0, "after"), 64, in_parts=False)
    plane.end()
    for crossing in crossings:
        crossing()


@pytest.mark.parametrize("what", ["table", "boxes"])
@pytest.mark.parametrize(
    ("wrong", "n_bytes"), [("another dtype", 640), ("another shape", 64), ("more", 640_000)]
)
def test_who_crosses_with_another_label_is_named(what, wrong, n_bytes, monkeypatch):
    """Of two ranks each has a neighbour that is wrong, so that none waits; see tests/command."""
    comm = MPI.COMM_WORLD.Split(MPI.COMM_WORLD.rank // 2)
    if comm.size < 2:
        return
    with MpiTransport.connect(Mesh(1, 2), comm, kind="shared") as transport:
        transport.begin("decode step 3")
        is_wrong = transport.rank == 1
        label = Label(7, wrong) if is_wrong else Label(5, "the right one")
        mine, other = (wrong, "the right one") if is_wrong else ("the right one", wrong)
        message = f"decode step 3: chip .* is in {mine}, but chip .* is in {other}$"
        with pytest.raises(CollectiveError, match=message):
            crossed(transport, Axis.ROW, what, label, n_bytes if is_wrong else 640)


def test_chips_of_one_process_are_compared_when_they_bind():
    mesh = Mesh(SIZE, 2)
    with MpiTransport.connect(mesh, chips_per_rank=2) as transport:
        plane, chips = transport.plane(Axis.ROW), transport.chips
        plane.begin()
        plane.table(chips[0], Label(1, "one thing"), 64, in_parts=False)
        with pytest.raises(CollectiveError, match="is in another, but chip .* one thing"):
            plane.table(chips[1], Label(2, "another"), 64, in_parts=False)
        plane = transport.plane(Axis.COLUMN)
        plane.begin()
        plane.table(chips[0], Label(1, "one thing"), 64, in_parts=False)
        with pytest.raises(CollectiveError, match=rf"chips \[{chips[1]}\] have bound only a part"):
            plane.end()


def test_a_mesh_that_does_not_fit_says_what_would():
    with pytest.raises(
        MeshError, match=f"needs {2 * SIZE} ranks, this run has {SIZE}.*--chips-per"
    ):
        MpiTransport(Mesh(2, SIZE))
    with pytest.raises(
        MeshError, match="cannot be divided into ranks of 5; --chips-per-rank can be 1, "
    ):
        MpiTransport(Mesh(2, SIZE), chips_per_rank=5)
    with pytest.raises(MeshError, match=f"needs {SIZE // 2} ranks of 4 chips each, this run has"):
        MpiTransport(Mesh(2, SIZE), chips_per_rank=4)
