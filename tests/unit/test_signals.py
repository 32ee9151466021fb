"""What processes of a host tell each other of rounds: together, in order, and never too late."""

import random

import pytest

from galaxy_mpi.mesh import Axis, Mesh
from galaxy_mpi.mesh.barrier import MOST_POSTS
from galaxy_mpi.mesh.host_memory import can_share_memory, make_file
from galaxy_mpi.mesh.placement import Placement
from galaxy_mpi.mesh.signals import Signals
from galaxy_mpi.mesh.team_memory import TeamMemory, n_files

pytestmark = pytest.mark.skipif(not can_share_memory(), reason="no shared memory on this system")


def two_of(size: int) -> tuple[Signals, Signals]:
    """Return the signals of ranks 0 and 1 of a column of ``size`` chips."""
    placement = Placement(Mesh(size, 1), 1)
    team = placement.teams(Axis.COLUMN)[0]
    files = [make_file() for _ in range(n_files(team))]
    memories = [TeamMemory(placement, team, (0, 1), rank, files) for rank in (0, 1)]
    memories[0].prepare()
    return Signals(memories[0], []), Signals(memories[1], [])


def take(way) -> bool:
    """Take a round if one has come, as a crossing does before it sleeps."""
    if way.n_known:
        way.n_known -= 1
    elif not way.take(False):
        return False
    else:
        way.taken()
    return True


def test_rounds_are_told_together_when_a_process_has_nothing_else_to_do():
    here, there = two_of(2)
    for _ in range(3):
        here.tell(here.posts[1])
    assert not take(there.takes[0])
    here.flush()
    here.flush()  # nothing is held back: nothing is posted
    assert [take(there.takes[0]) for _ in range(4)] == [True, True, True, False]


def test_as_many_rounds_are_taken_as_were_told_however_they_were_posted():
    """Many times around the places of the numbers, as far ahead as two collectives may be."""
    here, there = two_of(8)
    chance, n_told, n_posted, n_taken = random.Random(1), 0, 0, 0
    for _ in range(20 * MOST_POSTS):
        what = chance.choice(["tell", "flush", "take", "take"])
        if what == "tell" and n_told - n_taken < 14:
            here.tell(here.posts[1])
            n_told += 1
        elif what == "flush":
            here.flush()
            n_posted = n_told
        elif what == "take":
            came = take(there.takes[0])
            assert came == (n_taken < n_posted)
            n_taken += came
    assert n_taken > 4 * MOST_POSTS


def test_in_a_group_too_large_for_the_numbers_every_round_is_told_at_once():
    here, there = two_of(MOST_POSTS)
    for _ in range(3 * MOST_POSTS):
        here.tell(here.posts[1])
    assert all(take(there.takes[0]) for _ in range(3 * MOST_POSTS))
    assert not take(there.takes[0])


def test_a_process_that_waits_in_one_team_has_told_the_others():
    placement = Placement(Mesh(3, 4), 3)  # row 0 is of ranks 0 and 1, row 1 of ranks 1 and 2
    first, second = placement.teams(Axis.ROW)[:2]
    assert (first.ranks, second.ranks) == ((0, 1), (1, 2))
    files = [make_file() for _ in range(n_files(first))]
    here, there = (TeamMemory(placement, first, first.ranks, rank, files) for rank in (1, 0))
    here.prepare()
    held: list = []
    mine, other = Signals(here, held), Signals(TeamMemory(placement, second, (1,), 1), held)
    mine.tell(mine.posts[0])
    other.flush()
    assert take(Signals(there, []).takes[1])
